"""What ships with a head: its weights, the curves of its training and a card. Figures are of the dev split only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evals.figures.plotting import panels, save
from evals.figures.provenance import provenance
from evals.figures.report import Columns, markdown_table
from rstitch.service.head import Head
from training.head.evaluate import Figures
from training.head.recipe import Recipe

WEIGHTS, CARD, CURVES, PLOT = "head.safetensors", "README.md", "training.jsonl", "training.png"
COLUMNS: Columns = {
    "policy": "{name}",
    "accuracy %": "{accuracy:.1p} [{low:.1p}, {high:.1p}]",
    "modelled ms": "{latency_ms:.1f}",
    "tokens": "{num_tokens:.1f}",
    "LLM %": "{llm_share:.1p}",
    "switches": "{num_switches:.2f}",
    "asked": "{num_consultations:.2f}",
}


def write_head(
    folder: Path,
    head: Head,
    recipe: Recipe,
    rows: Sequence[Figures],
    log: Sequence[Mapping[str, Any]],
    steps_looked_at: Sequence[int],
    minutes: float,
) -> None:
    """Writes all files; the weights last, for a router may look at any time.

    Args:
        rows: thresholds, the head before DAPO, this head.
        steps_looked_at: of DAPO, after which the head was a candidate.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CURVES).write_text("".join(f"{json.dumps(line)}\n" for line in log))
    plot(log, folder / PLOT)
    (folder / CARD).write_text(_card(folder.name, head, recipe, rows, steps_looked_at, minutes))
    part = folder / f"{WEIGHTS}.part"
    part.write_bytes(head.data)
    part.replace(folder / WEIGHTS)


def plot(log: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Reward, accuracy, latency and LLM share, by step."""
    shown = {"reward": "reward", "accuracy": "accuracy", "latency_ms": "modelled latency, ms", "llm_share": "LLM share"}
    figure, axes = panels(1, len(shown), (13, 3))
    for axis, (key, label) in zip(axes[0], shown.items(), strict=True):
        axis.plot([line["step"] for line in log], [line[key] for line in log], color="tab:blue", linewidth=1)
        axis.set(xlabel="step of DAPO", title=label)
        axis.grid(alpha=0.3)
    save(figure, path)


def _card(
    name: str, head: Head, recipe: Recipe, rows: Sequence[Figures], steps_looked_at: Sequence[int], minutes: float
) -> str:
    facts = head.facts
    *others, last = map(str, steps_looked_at)
    steps = f"steps {', '.join(others)} and {last}" if others else f"step {last}"
    readout = (
        f"\n- Of the hidden state it also reads what the SLM thinks of {recipe.num_readout} tokens (by its LM head):"
        "\n  the four largest log-probabilities and the entropy. Ours, not the paper's."
        if recipe.num_readout
        else ""
    )
    start = (
        f"warm start on {recipe.warm_answers:,} reference chains (P(the SLM's token is wrong), leaning to the LLM above "
        f"{recipe.warm_error:g}), then "
        if recipe.warm_answers
        else ""
    )
    return f"""---
license: apache-2.0
library_name: rstitch
---
# {name}

A head of R-Stitch+ (arXiv 2507.17307) for {facts.slm} and {facts.llm}: where the SLM's entropy is above {facts.tau:g}
it says, from the SLM's last hidden state and the context length, whether the LLM writes the position.
Version `{head.version}`.

- MLP {" x ".join(map(str, head.sizes))} with ReLU, {head.num_parameters:,} parameters, float32; inputs normalised.
- Fits hidden states of {facts.hidden_size} numbers and the tokenizer `{facts.tokenizer_fingerprint[:12]}`.{readout}
- Ask for it with `policy=learned:{name}`; [docs/rstitch_plus.md](../../../docs/rstitch_plus.md) says how it is made.

## Training

`make train-router`: {start}DAPO:
{recipe.num_steps} steps of {recipe.num_questions} groups of {recipe.group_size} answers, reward
r_acc - lambda * r_acc * L with lambda = {0.0:g} per modelled millisecond, seed {recipe.seed}; the language
models are frozen.
{minutes:.0f} minutes. {", ".join(f"{key} {value}" for key, value in provenance().items())}.

![curves]({PLOT})

## Dev split

The first {rows[0].n} problems, greedy. The head is the best of those looked at after {steps} of DAPO,
by the reward on these very problems: the figures that count are those of the test split in
[docs/results.md](../../../docs/results.md).

{markdown_table(COLUMNS, [asdict(row) for row in rows])}

Accuracy with its 95% interval (Wilson); latency by the latency model, with the waiting model caught up beside; `asked`
is how often the SLM was above the gate.
"""
