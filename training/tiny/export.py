"""Puts a trained tiny model into `models/`: `python -m training.tiny.export slm|llm --checkpoint F --out FOLDER`.

bfloat16 safetensors, the tokenizer with its chat template, the generation config, and a model card that repeats the
figures it is given. Measures nothing itself.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from training.tiny import tokenizer as tokens
from training.tiny.chains import MIXTURES
from training.tiny.recipe import RECIPES
from training.tiny.train import new_model

_ABOUT = {
    "slm": "It is the small half of the pair: it writes one short line for each calculation, fast, and makes mistakes.",
    "llm": "It is the large half of the pair: it writes each calculation out, checks it, and is nearly always right.",
}
_CARD = """---
license: apache-2.0
library_name: transformers
language: en
pipeline_tag: text-generation
---
# tiny-{role}

A {parameters:,}-parameter `LlamaForCausalLM` that solves arithmetic word problems with a chain of thought.
{about}
It belongs to the tiny pair of rstitch, which shows R-Stitch (arXiv 2507.17307) on any computer: real models, trained
from nothing, small enough for the repository.

```
{sample}
```

## Model

{num_layers} layers, width {hidden_size}, {num_heads} heads, feed-forward {intermediate_size}, tied embeddings, bfloat16
weights, {size_mb:.2f} MB. One tokenizer for both models: byte-level BPE, {vocabulary} entries, every digit a token of
its own. The embedding has exactly as many rows as the tokenizer has entries (no padding rows). `<think>` and `</think>`
are ordinary tokens, so they stay visible with `skip_special_tokens`. Chat roles: system, user, assistant.

## Data

Problems come from a seeded generator (`training/tiny/task.py`): 2 to 6 calculations, whole numbers below 1,000, one
person, one kind of thing. A problem belongs to one split by a hash of its calculations (not of its wording), so
held-out calculations never occur in training in any words; `check_disjoint` looks for itself. There is no other data.

The pair writes in two styles, short and verbose. Each model saw chains of mixed styles:
{mixture}.
The loss is off at the one token with which a line of the other's style begins: a model can finish the other's line but
never begins one.

## Training

`make train-tiny` makes the pair again. This model: seed {seed}, {steps:,} steps of about {batch_tokens:,} tokens, Muon
for matrices and AdamW for the rest, highest learning rate {learning_rate:g}, scheduled as
{knots} (step: share of it), moving average of the weights, bfloat16 autocast. {minutes:.0f} minutes on one shared
CPU core; last training loss {loss:.4f}.{practice}

## Held-out figures

{figures}

## Limits

It knows this one task in these words: other questions get fluent nonsense. English only. Up to six calculations; no
decimals, no negative numbers, nothing above 999. Errors are errors of a very small network, not of reasoning. A
"Check" writes the sum backwards; chains in training are right, so a check never finds a mistake and mends none. Its
entropies are those of a vocabulary of {vocabulary}: a threshold found here does not carry over to a large vocabulary.

Licence: Apache-2.0, like the repository.
"""
_PRACTICE = "\nFrom step {:,} on, {:.0%} of the additions and subtractions are hard: they carry through two digits."
_SAMPLES = {
    "slm": "Mia has 47 shells. She finds 28 more. Then she triples the number of shells. How many shells does Mia have "
    "now?\n\n<think>\n47+28=75.\n75*3=225.\n</think>\nMia now has \\boxed{225} shells.",
    "llm": "Mia has 47 shells. She finds 28 more. Then she triples the number of shells. How many shells does Mia have "
    "now?\n\n<think>\nAdd 28: 47+28=75. Check: 75-28=47.\nMultiply by 3: 75*3=225. Check: 225/3=75.\n</think>\n"
    "Mia now has \\boxed{225} shells.",
}


def table(figures: list[dict[str, Any]]) -> str:
    """The evaluation's rows as a Markdown table."""
    if not figures:
        return "Not measured yet."
    rows = [
        f"| {f['decoding']} | {f['n']} | {f['accuracy']} ({f['low']}-{f['high']}) "
        f"| {f['tokens']} | {f['llm_share']} | {f['switches']} |"
        for f in figures
    ]
    head = (
        "| decoding | problems | accuracy % (95% interval) | tokens | tokens by the LLM % | switches |\n|-|-|-|-|-|-|\n"
    )
    return head + "\n".join(rows)


def export(role: str, checkpoint: Path, out: Path, figures: list[dict[str, Any]], note: str = "") -> Path:
    """Write the folder that `from_pretrained` loads."""
    state = torch.load(checkpoint, weights_only=True)
    recipe = RECIPES[role]
    tokenizer = tokens.train_tokenizer()
    model = new_model(recipe, tokenizer)
    model.load_state_dict(state["average"])
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    model.bfloat16()
    model.save_pretrained(out)
    tokens.save(tokenizer, out)
    for path in out.iterdir():
        path.chmod(0o644)  # safetensors writes for its owner alone; a container runs as somebody else
    weights = sum(f.stat().st_size for f in out.glob("*.safetensors"))
    card = _CARD.format(
        **recipe.as_dict(),
        parameters=model.num_parameters(),
        about=_ABOUT[role],
        sample=_SAMPLES[role],
        size_mb=weights / 1e6,
        vocabulary=len(tokenizer),
        mixture=", ".join(f"{share:.0%} of them with {p:.0%} own lines" for share, p in MIXTURES[recipe.own]),
        knots=", ".join(f"{max(0, step):,}: {share:g}" for step, share in recipe.schedule),
        practice=_PRACTICE.format(recipe.practice_from, recipe.practice_hard) if recipe.practice_from else "",
        steps=state["step"],
        minutes=state["seconds"] / 60,
        loss=state.get("loss", float("nan")),
        figures="\n\n".join(filter(None, (note, table(figures)))),
    )
    (out / "README.md").write_text(card)
    return out


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("role", choices=sorted(RECIPES))
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--figures", type=Path, help="what evaluate printed: one JSON object a line")
    parser.add_argument("--note", default="", help="a sentence above the figures")
    args = parser.parse_args()
    lines = args.figures.read_text().splitlines() if args.figures else []
    figures = [json.loads(line) for line in lines if line.startswith("{")]
    export(args.role, args.checkpoint, args.out, figures, args.note)


if __name__ == "__main__":
    main()
