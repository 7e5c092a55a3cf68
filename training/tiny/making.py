"""Makes the tiny models that are named: trains, exports, measures them for their cards.

Two are trained at a time, one core each, in processes of their own. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import typer
from rich.console import Console

from evals.tasks.tiny.domains import DOMAINS
from rstitch.cli.common import FAILED, print_error
from training.tiny.evaluate import evaluate
from training.tiny.export import export
from training.tiny.recipe import PARTNERS, RECIPES
from training.tiny.train import CHECKPOINT

_NOTE = "The first {} problems of the {} split, greedy, float32, by `training.tiny.evaluate`, with `{}` and `{}`."


def make(names: Sequence[str], work: Path, models: Path, split: str, n: int) -> None:
    """Trains, exports, measures. Raises typer.Exit if a training failed, which has said why.

    Args:
        work: folder of the checkpoints.
        models: folder of the exported models.
        split, n: of which problems the cards' figures are, and how many.
    """
    console = Console()

    console.print("Looking for held-out problems in the training stream ...")
    for domain in {RECIPES[name].domain for name in names}:
        DOMAINS[domain].generator.check_disjoint()

    with ThreadPoolExecutor(2) as pool:
        command = [sys.executable, "-m", "training.tiny.train", "--resume", "--out"]
        runs = pool.map(lambda name: subprocess.run([*command, str(work / name), name], check=False), names)
    if any(run.returncode for run in runs):
        print_error("a training failed.")
        raise typer.Exit(FAILED)

    for name in names:
        export(name, work / name / CHECKPOINT, models / name, figures=[])
    torch.set_num_threads(1)
    measured: set[str] = set()
    for slm in (name for name in names if name in PARTNERS):
        llm = PARTNERS[slm]
        tallies = evaluate(models / slm, models / llm, DOMAINS[RECIPES[slm].domain], split, n)
        figures = [tally.figures() for tally in tallies]
        for row in figures:
            console.print(row)
        for name in {slm, llm} & set(names) - measured:  # an LLM's card shows it with the first of its SLMs
            note = _NOTE.format(n, split, slm, llm)
            export(name, work / name / CHECKPOINT, models / name, figures, note)
            measured.add(name)
