"""`rstitch profile`: hands over to `evals.latency`."""

from __future__ import annotations

import typer

from rstitch.cli.common import command
from rstitch.cli.hand_over import hand_over

_NEEDED = ("training", "evals", "torch", "transformers", "matplotlib", "scipy")


@command
def profile(context: typer.Context) -> None:
    """Times the models' calls and fits the latency model: see rstitch profile --help."""
    raise hand_over("profile", "evals.latency", _NEEDED, context.args)
