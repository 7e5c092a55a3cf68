"""The whole recipe: `python -m training.tiny [--work FOLDER] [--models FOLDER]`, which is `make train-tiny`.

Checks the splits, trains both models side by side (one core each; a stopped run goes on where it was), exports them and
measures them on the test split for their cards. The choices of the recipe were made on the dev split.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch
from rich.console import Console

from training.tiny.evaluate import evaluate
from training.tiny.export import export
from training.tiny.recipe import RECIPES
from training.tiny.task import check_disjoint
from training.tiny.train import CHECKPOINT

NUM_TEST = 500
NOTE = f"The first {NUM_TEST} problems of the test split, greedy, float32, by `training.tiny.evaluate`."


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(".cache/tiny"), help="folder of the checkpoints")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of the exported pair")
    args = parser.parse_args()
    console = Console()

    console.print("Looking for held-out problems in the training stream ...")
    check_disjoint()

    runs = []
    for role in sorted(RECIPES):
        command = [sys.executable, "-m", "training.tiny.train", role, "--out", str(args.work / role), "--resume"]
        runs.append(subprocess.Popen(command))
    exits = [run.wait() for run in runs]
    if any(exits):
        sys.exit("Training failed.")

    folders = {role: args.models / f"tiny-{role}" for role in RECIPES}
    for role, folder in folders.items():
        export(role, args.work / role / CHECKPOINT, folder, figures=[])
    torch.set_num_threads(1)
    figures = [tally.figures() for tally in evaluate(folders["slm"], folders["llm"], "test", NUM_TEST)]
    for row in figures:
        console.print(row)
    for role, folder in folders.items():
        export(role, args.work / role / CHECKPOINT, folder, figures, NOTE)


if __name__ == "__main__":
    main()
