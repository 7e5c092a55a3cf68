"""`rstitch calibrate`: hands over to `evals.calibrate`."""

from __future__ import annotations

import typer

from rstitch.cli.common import command
from rstitch.cli.hand_over import hand_over

_NEEDED = ("evals", "training", "torch", "transformers", "scipy")


@command
def calibrate(context: typer.Context) -> None:
    """Finds the policy's parameter for a share, a loss or a speed-up: see rstitch calibrate --help."""
    raise hand_over("calibrate", "evals.calibrate", _NEEDED, context.args)
