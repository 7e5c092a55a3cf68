"""`python -m training.shared_layers`: trains `models/tiny-shared-layers` from `models/tiny-llm`, and measures it.

About 10 minutes of one CPU core, and some more for the figures of the card. `--measure-only` measures what there is
again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from training.commands import SEVERAL, run

_TAUS = (0.002, 0.005, 0.02, 0.05, 0.1)
_SOURCE, _OUT = Path("models/tiny-llm"), Path("models/tiny-shared-layers")


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, measures; returns the exit code."""
    return run(_train_shared, "python -m training.shared_layers", __doc__, arguments)


def _train_shared(
    source: Annotated[Path, typer.Option(help="The LLM to start from.")] = _SOURCE,
    out: Annotated[Path, typer.Option(help="Folder of the model.")] = _OUT,
    n: Annotated[int, typer.Option(help="dev problems for the card.")] = 500,
    taus: Annotated[
        list[float] | None,
        typer.Option(metavar=f"TAU{SEVERAL}", help="Thresholds.", show_default=" ".join(map(str, _TAUS))),
    ] = None,
    measure_only: Annotated[bool, typer.Option("--measure-only", help="Train nothing; measure --out again.")] = False,
) -> None:
    # With torch, which the help does not need.
    import torch

    from training.shared_layers.export import export, measure
    from training.shared_layers.train import Recipe, train

    torch.set_num_threads(1)
    if not measure_only:
        recipe = Recipe()
        export(source, out, recipe, *train(source, recipe))
    for row in measure(out, n, tuple(taus or _TAUS)):
        Console().print(row)


if __name__ == "__main__":
    sys.exit(main())
