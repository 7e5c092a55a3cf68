"""`rstitch eval`: hands over to `evals.evaluation`."""

from __future__ import annotations

import typer

from rstitch.cli.common import command
from rstitch.cli.hand_over import hand_over

_NEEDED = ("evals", "training", "torch", "transformers", "matplotlib", "scipy", "math_verify")


@command
def evaluate(context: typer.Context) -> None:
    """Asks the systems a task's problems, and reports: see rstitch eval --help."""
    raise hand_over("eval", "evals.evaluation", _NEEDED, context.args)
