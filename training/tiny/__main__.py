"""The whole recipe: `python -m training.tiny [NAME ...]`, which is `make train-tiny ARGS="NAME ..."`.

Looks whether the splits are disjoint, trains the models named (tiny-slm and tiny-llm if none is) two at a time, one
core each, exports them and measures each SLM with its LLM for their cards. A stopped run goes on where it was. The
recipes' choices were made on the dev split.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from rich.console import Console

from evals.tasks.tiny.domains import DOMAINS
from training.tiny.evaluate import evaluate
from training.tiny.export import export
from training.tiny.recipe import PARTNERS, RECIPES
from training.tiny.train import CHECKPOINT

_NOTE = "The first {} problems of the {} split, greedy, float32, by `training.tiny.evaluate`, with `{}` and `{}`."


def main() -> None:
    """Trains and exports the models that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RECIPES)}")
    parser.add_argument("--work", type=Path, default=Path(".cache/tiny"), help="folder of the checkpoints")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of the exported models")
    parser.add_argument("--split", choices=("dev", "test"), default="dev", help="for the cards' figures (default dev)")
    parser.add_argument("--n", type=int, default=500, help="problems for the cards' figures (default 500)")
    args = parser.parse_args()
    names = list(args.names) or ["tiny-slm", "tiny-llm"]
    if unknown := set(names) - set(RECIPES):
        parser.error(f"no recipe {sorted(unknown)[0]!r}; there are {', '.join(RECIPES)}")
    console = Console()

    console.print("Looking for held-out problems in the training stream ...")
    for domain in {RECIPES[name].domain for name in names}:
        DOMAINS[domain].generator.check_disjoint()

    with ThreadPoolExecutor(2) as pool:
        command = [sys.executable, "-m", "training.tiny.train", "--resume", "--out"]
        runs = pool.map(lambda name: subprocess.run([*command, str(args.work / name), name], check=False), names)
    if any(run.returncode for run in runs):
        sys.exit("Training failed.")

    for name in names:
        export(name, args.work / name / CHECKPOINT, args.models / name, figures=[])
    torch.set_num_threads(1)
    measured: set[str] = set()
    for slm in (name for name in names if name in PARTNERS):
        llm = PARTNERS[slm]
        tallies = evaluate(args.models / slm, args.models / llm, DOMAINS[RECIPES[slm].domain], args.split, args.n)
        figures = [tally.figures() for tally in tallies]
        for row in figures:
            console.print(row)
        for name in {slm, llm} & set(names) - measured:  # an LLM's card shows it with the first of its SLMs
            note = _NOTE.format(args.n, args.split, slm, llm)
            export(name, args.work / name / CHECKPOINT, args.models / name, figures, note)
            measured.add(name)


if __name__ == "__main__":
    main()
