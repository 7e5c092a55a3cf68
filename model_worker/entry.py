"""The first moment of a worker: its settings are read before anything heavy is imported, so that a wrong one is told at
once. It does not know what a worker does with them.
"""

from __future__ import annotations

import os
import sys

from pydantic import ValidationError
from pydantic_settings import CliApp

from model_worker.role import Role
from rstitch.service.settings import explain, with_new_names

_RENAMED = {"exit-listen": "shared-listen"}


def main(role: Role) -> None:
    """Runs a worker until SIGTERM or SIGINT; the entry point of `python -m slm_worker` and `llm_worker`."""
    arguments, told = with_new_names(_RENAMED, sys.argv[1:], os.environ)
    try:
        settings = CliApp.run(role.settings, cli_args=arguments)
    except ValidationError as error:
        sys.exit(explain(f"{role.name}-worker", error))
    # Not before: torch and transformers take seconds, on a busy machine many.
    from model_worker.main import run

    run(role, settings, told)
