"""What a head knows that the entropy does not: `python -m training.head.studies.recall [FILE ...] [--write]`.

Reference chains of another stream of the train split than the heads' go through the SLM. Of the tokens that it gets
wrong, how many are found with so many calls of the LLM an answer, if the calls go where entropy, probability or a head
is most unsure?
The answer bounds what a policy can do: a call that finds nothing costs as much as one that does.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import Tensor
from transformers import AutoModelForCausalLM

from evals.figures.provenance import line, provenance
from evals.figures.report import Columns, Row, markdown_table, replace_section, terminal_table
from rstitch.local.part import ROOT
from rstitch.service.head import Head
from rstitch.service.head_features import NAMES
from training.commands import run
from training.head.warm_start.calibration import odds_of
from training.head.warm_start.chain_states import Chains, chain_states
from training.head.warm_start.states import States

CALLS = (0.4, 0.6, 0.8, 1.0, 1.2)  # of the LLM, an answer
_SLM = str(ROOT / "models/tiny-slm")
_GATE = 0.01
_SEED = 1_001  # of the problems; heads are trained with small ones


def _found(calls: str, row: Row) -> str:
    return f"{100 * row['found'][calls]:.1f}"  # a template would take "1" for a number, and look for that


_COLUMNS: Columns = {"asked by": "{name}"} | {f"{calls:g} calls": partial(_found, f"{calls:g}") for calls in CALLS}


def share_found(score: Tensor, wrong: Tensor, num_calls: float) -> float:
    """Computes the share of the wrong tokens among the `num_calls` states with the highest score.

    Args:
        score: [n], one an unsure token.
        wrong: 0 or 1, [n].
    """
    called = score.topk(min(len(score), round(num_calls))).indices
    return float(wrong[called].sum() / wrong.sum())


def recall(score: Tensor, wrong: Tensor, num_answers: int) -> dict[float, float]:
    """Computes the share of the wrong tokens that is found for each of `CALLS`, as `share_found` does."""
    return {calls: share_found(score, wrong, calls * num_answers) for calls in CALLS}


def share_missed(score: Tensor, states: States, num_calls: float) -> float:
    """Computes the share of answers in which a wrong token is not among the `num_calls` states of highest score."""
    missed = states.wrong.clone()
    missed[score.topk(min(len(score), round(num_calls))).indices] = 0
    return len(states.answers[missed > 0].unique()) / states.num_answers


@torch.inference_mode()
def rows(slm: str, states: States, features: Sequence[str], heads: dict[str, Head]) -> list[Row]:
    """One for each score: the SLM's entropy, 1 - p of its token, and each head.

    Args:
        features: that the states have, among them those of each head.
    """
    weight = AutoModelForCausalLM.from_pretrained(slm, dtype=torch.float32).get_output_embeddings().weight
    log_p = torch.log_softmax(states.inputs[:, : weight.shape[1]] @ weight.T, dim=-1)
    scores = {"entropy": -(log_p.exp() * log_p).sum(dim=-1), "1 - p": -log_p.amax(dim=-1)}
    for name, head in heads.items():
        scores[name] = odds_of(head, states.shown(features, head.facts.features))
    shares = {name: recall(score, states.wrong, states.num_answers) for name, score in scores.items()}
    # By the words of the table's columns.
    return [{"name": name, "found": {f"{calls:g}": x for calls, x in found.items()}} for name, found in shares.items()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Computes the table, prints it, and writes it if asked; returns the exit code."""
    return run(_recall, "python -m training.head.studies.recall", __doc__, arguments)


def _recall(
    files: Annotated[
        list[Path] | None, typer.Argument(exists=True, help="Heads.", show_default="models/heads/tiny/head.safetensors")
    ] = None,
    slm: Annotated[str, typer.Option(help="Folder or hub id.", show_default="tiny-slm")] = _SLM,
    num_chains: Annotated[int, typer.Option(help="Reference chains.")] = 20_000,
    write: Annotated[bool, typer.Option("--write", help="Into docs/rstitch_plus.md.")] = False,
) -> None:
    torch.set_num_threads(1)
    files = files or [ROOT / "models/heads/tiny/head.safetensors"]
    heads = {f"head {file.parent.name}": Head.from_bytes(file.read_bytes()) for file in files}
    features = tuple(name for name in NAMES if any(name in head.facts.features for head in heads.values()))
    states = chain_states(Chains(slm, "words", _GATE, num_chains, _SEED, features))
    made = rows(slm, states, features, heads)
    wrong = float(states.wrong.sum()) / states.num_answers
    title = f"% of the SLM's wrong tokens ({wrong:.2f} an answer) found with so many calls of the LLM an answer"
    Console(width=None if sys.stdout.isatty() else 120).print(terminal_table(title, _COLUMNS, made))
    if write:
        told = f"{title}; {num_chains:,} reference chains, seed {_SEED}. {line(provenance())}"
        replace_section(ROOT / "docs/rstitch_plus.md", "recall", f"{markdown_table(_COLUMNS, made)}\n\n{told}")


if __name__ == "__main__":
    sys.exit(main())
