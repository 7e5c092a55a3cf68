"""The whole recipe: `python -m training.tiny [NAME ...]`, which is `make train-tiny ARGS="NAME ..."`.

Looks whether the splits are disjoint, trains the models named (tiny-slm and tiny-llm if none is) two at a time, one
core each, exports them and measures each SLM with its LLM for their cards. A stopped run goes on where it was. The
recipes' choices were made on the dev split.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from evals.asking.values import choice, one_of
from training.commands import run
from training.tiny.recipe import RECIPES

_SPLITS = ("dev", "test")
_WORK, _MODELS = Path(".cache/tiny"), Path("models")


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains and exports the models that are named; returns the exit code."""
    return run(_train_tiny, "python -m training.tiny", __doc__, arguments)


def _train_tiny(
    names: Annotated[
        list[str] | None, typer.Argument(parser=one_of(RECIPES), metavar="NAME", help=f"Of {', '.join(RECIPES)}.")
    ] = None,
    work: Annotated[Path, typer.Option(help="Folder of the checkpoints.")] = _WORK,
    models: Annotated[Path, typer.Option(help="Folder of the exported models.")] = _MODELS,
    split: Annotated[str, choice(_SPLITS, "For the cards' figures.")] = "dev",
    n: Annotated[int, typer.Option(help="Problems for the cards' figures.")] = 500,
) -> None:
    from training.tiny.making import make  # with torch, which the help does not need

    make(names or ("tiny-slm", "tiny-llm"), work, models, split, n)


if __name__ == "__main__":
    sys.exit(main())
