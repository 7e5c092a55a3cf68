"""Puts a trained tiny model into `models/`: `python -m training.tiny.export NAME --checkpoint F --out FOLDER`.

bfloat16 safetensors, the tokenizer with its chat template, the generation config, and a model card that repeats the
figures it is given. Measures nothing itself.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import GenerationConfig

from evals.asking.values import one_of
from evals.figures.report import Columns, markdown_table
from evals.tasks.tiny.domains import DOMAINS
from training.commands import run
from training.tiny import tokenizer as tokens
from training.tiny.chains import MIXTURES, chain, text
from training.tiny.recipe import RECIPES
from training.tiny.train import new_model

_ABOUT = {
    "short": "It is the small half of a pair: it writes one short line for each step, fast, and makes mistakes.",
    "verbose": "It is the large half of a pair: it writes each step out and is nearly always right.",
}
_MIXED = """The pair writes in two styles, short and verbose. Each model saw chains of mixed styles:
{mixture}.
The loss is off at the one token with which a line of the other's style begins: a model can finish the other's line but
never begins one."""
_UNMIXED = """The pair writes in two styles, short and verbose. **This model saw its own style alone**: it was never
taught to go on from what the LLM has written. It is here to show what the mixture of the others is good for."""
_CARD = """---
license: apache-2.0
library_name: transformers
language: en
pipeline_tag: text-generation
---
# {name}

A {parameters:,}-parameter `LlamaForCausalLM` that {about}.
{half}
It belongs to the tiny models of rstitch, which show R-Stitch (arXiv 2507.17307) on any computer: real models, trained
from nothing, small enough for the repository.{begun}

```
{sample}
```

## Model

{num_layers} layers, width {hidden_size}, {num_heads} heads, feed-forward {intermediate_size}, tied embeddings, bfloat16
weights, {size_mb:.2f} MB. One tokenizer for all models of this domain: byte-level BPE, {vocabulary} entries, every
digit a token of its own. The embedding has exactly as many rows as the tokenizer has entries (no padding rows).
`<think>` and `</think>` are ordinary tokens, so they stay visible with `skip_special_tokens`. Chat roles: system, user,
assistant.

## Data

{data}

{styles}

## Training

`make train-tiny ARGS={name}` makes it again. Seed {seed}, {steps:,} steps of about {batch_tokens:,} tokens, Muon
for matrices and AdamW for the rest, highest learning rate {learning_rate:g}, scheduled as
{knots} (step: share of it), moving average of the weights, bfloat16 autocast. {minutes:.0f} minutes on one shared
CPU core; last training loss {loss:.4f}.{practice}

## Held-out figures

{figures}

## Limits

It knows this one task in these words: other questions get fluent nonsense. English only.
{limits}
Its entropies are those of a vocabulary of {vocabulary}: a threshold found here does not carry over to a large one.

Licence: Apache-2.0, like the repository.
"""
_COLUMNS: Columns = {
    "decoding": "{decoding}",
    "problems": "{n}",
    "accuracy % (95% interval)": "{accuracy} ({low}-{high})",
    "tokens": "{tokens}",
    "tokens by the LLM %": "{llm_share}",
    "switches": "{switches}",
}
_BEGUN = " This one's run began with the weights of `{}`, made for another domain."
_PRACTICE = "\nFrom step {:,} on, {:.0%} of the additions and subtractions are hard: they carry through two digits."


def table(figures: list[dict[str, Any]]) -> str:
    """The evaluation's rows as a Markdown table."""
    return markdown_table(_COLUMNS, figures) if figures else "Not measured yet."


def export(name: str, checkpoint: Path, out: Path, figures: list[dict[str, Any]], note: str = "") -> Path:
    """Writes the folder that `from_pretrained` loads."""
    state = torch.load(checkpoint, weights_only=True)
    recipe = RECIPES[name]
    domain = DOMAINS[recipe.domain]
    tokenizer = tokens.train_tokenizer(domain)
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
    mixture = ", ".join(f"{share:.0%} of them with {p:.0%} own lines" for share, p in MIXTURES[recipe.own])
    card = _CARD.format(
        **asdict(recipe),
        parameters=model.num_parameters(),
        about=domain.about,
        data=domain.data,
        limits=domain.limits,
        begun=_BEGUN.format(recipe.begin) if recipe.begin else "",
        half=_ABOUT[recipe.own],
        styles=_MIXED.format(mixture=mixture) if recipe.mixed else _UNMIXED,
        sample=f"{domain.sample.question}\n\n{text(chain(domain, domain.sample, recipe.own))}",
        size_mb=weights / 1e6,
        vocabulary=len(tokenizer),
        knots=", ".join(f"{max(0, step):,}: {share:g}" for step, share in recipe.schedule),
        practice=_PRACTICE.format(recipe.practice_from, recipe.practice_hard) if recipe.practice_from else "",
        steps=state["step"],
        minutes=state["seconds"] / 60,
        loss=state.get("loss", float("nan")),
        figures="\n\n".join(filter(None, (note, table(figures)))),
    )
    (out / "README.md").write_text(card)
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Exports a checkpoint; returns the exit code."""
    return run(_export, "python -m training.tiny.export", __doc__, arguments)


def _export(
    name: Annotated[str, typer.Argument(parser=one_of(RECIPES), metavar="NAME", help=f"Of {', '.join(RECIPES)}.")],
    checkpoint: Annotated[Path, typer.Option(exists=True, help="What train wrote.")],
    out: Annotated[Path, typer.Option(help="Folder of the model.")],
    figures: Annotated[
        Path | None, typer.Option(exists=True, help="What evaluate printed: one JSON object a line.")
    ] = None,
    note: Annotated[str, typer.Option(help="A sentence above the figures.")] = "",
) -> None:
    lines = figures.read_text().splitlines() if figures else []
    export(name, checkpoint, out, [json.loads(line) for line in lines if line.startswith("{")], note)


if __name__ == "__main__":
    sys.exit(main())
