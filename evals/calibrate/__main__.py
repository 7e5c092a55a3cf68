"""`rstitch calibrate`, or `python -m evals.calibrate`: the parameter of a policy that gives what is wanted.

`run` (the default) calibrates on half of the questions of a running router, checks on the other half, and keeps the
policy as a profile if it is named. `repeat` shows on the tiny task how often such a statement holds.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.progress import Progress

from evals.asking.stack_options import StackOptions
from evals.calibrate import commands
from evals.calibrate.options import Options
from evals.commands import run_program
from evals.figures.progress import progress_bar
from evals.options import at_most_one
from rstitch.cli.progress import stopped_by_signals
from rstitch.errors import invalid
from rstitch.limits import ROUTER_ADDRESS

_Command = Callable[[Options, ExitStack, Progress], Coroutine[Any, Any, commands.Result]]
_COMMANDS: dict[str, _Command] = {"run": commands.run, "repeat": commands.repeat_many}


def main(arguments: list[str] | None = None) -> int:
    """Runs the program; returns the exit code."""
    return run_program("rstitch calibrate", __doc__, run, Options, arguments, bad_input=(ValueError, OSError))


def run(options: Options) -> int:
    """Runs a command; returns the exit code: 3 where what was found is not as it was stated."""
    console = Console(stderr=options.json, highlight=False)
    at_most_one({"--llm-share": options.llm_share, "--max-loss": options.max_loss, "--latency": options.latency})
    if options.router or options.command == "run":
        _refuse_stack_flags(options)
    with stopped_by_signals(), ExitStack() as held, progress_bar(console) as progress:
        result = asyncio.run(_COMMANDS[options.command](options, held, progress))
    for told in result.told:
        console.print(told, markup=False, soft_wrap=True)
    if options.json:
        sys.stdout.write(json.dumps(result.plain) + "\n")
    return 0 if result.good else 3


def _refuse_stack_flags(options: Options) -> None:
    """A router that runs has its models already. Raises: RstitchError that names the flag."""
    for name, default in asdict(StackOptions()).items():
        if getattr(options, name) != default:
            raise invalid(
                f"--{name.replace('_', '-')}",
                f"a router that runs is asked ({options.router or ROUTER_ADDRESS}), and its models are its own.",
                "Leave it out, and start the stack with the models you mean: `rstitch up`.",
            )


if __name__ == "__main__":
    sys.exit(main())
