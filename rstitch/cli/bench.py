"""`rstitch bench`: hands over to `evals.bench`."""

from __future__ import annotations

import typer

from rstitch.cli.common import command
from rstitch.cli.hand_over import hand_over

_NEEDED = ("evals", "torch", "transformers", "matplotlib", "redis")


@command
def bench(context: typer.Context) -> None:
    """Measures speed beside what else there is: see rstitch bench --help."""
    raise hand_over("bench", "evals.bench", _NEEDED, context.args)
