"""`rstitch pairs`: hands over to `evals.pairs`."""

from __future__ import annotations

import typer

from rstitch.cli.common import command
from rstitch.cli.hand_over import hand_over

_NEEDED = ("evals", "training", "torch", "transformers", "matplotlib", "scipy", "redis")


@command
def pairs(context: typer.Context) -> None:
    """Predicts which SLM suits an LLM, and checks it: see rstitch pairs --help."""
    raise hand_over("pairs", "evals.pairs", _NEEDED, context.args)
