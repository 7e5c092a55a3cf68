"""`rstitch calibrate`, or `python -m evals.calibrate`: the parameter of a policy that gives what is wanted.

`run` (the default) calibrates on half of the questions of a running router, checks on the other half, and keeps the
policy as a profile if it is named. `repeat` shows on the tiny task how often such a statement holds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from evals.asking.flags import positive
from evals.asking.stacks import add_stack_arguments
from evals.calibrate import commands
from evals.calibrate.knobs import POLICIES, SIGNALS
from evals.figures.progress import progress_bar
from rstitch.cli.progress import stopped_by_signals
from rstitch.errors import RstitchError, invalid
from rstitch.limits import ROUTER_ADDRESS
from rstitch.local.part import StackError

_Command = Callable[[argparse.Namespace, ExitStack, Progress], Coroutine[Any, Any, commands.Result]]
_COMMANDS: dict[str, _Command] = {"run": commands.run, "repeat": commands.repeat_many}


def parser() -> argparse.ArgumentParser:
    """Makes the parser, whose flags serve both commands."""
    share = partial(_number, unit="%", example="0.15 or 15%")
    times = partial(_number, unit="x", example="2x")
    # fmt: off
    made = argparse.ArgumentParser(prog="rstitch calibrate", description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("command", nargs="?", choices=tuple(_COMMANDS), default="run", help="default run")
    made.add_argument("--data", help="a .jsonl file of questions (and answers), or tiny:calibration")
    goal = made.add_mutually_exclusive_group()
    goal.add_argument("--llm-share", type=share, metavar="SHARE",
                      help="so much of the tokens by the LLM: 0.15 or 15%%")
    goal.add_argument("--max-loss", type=share, metavar="LOSS",
                      help="at most so much less accurate than the LLM alone: 0.01 or 1%%")
    goal.add_argument("--latency", type=times, metavar="TIMES", help="so many times as fast as the LLM alone: 2x")
    made.add_argument("--policy", default="threshold", help=f"{' | '.join(POLICIES)} (default threshold)")
    made.add_argument("--signal", choices=SIGNALS, default="entropy", help="of threshold (default entropy)")
    made.add_argument("--window", type=positive, default=0, help="of entropy_window (default: the router's)")
    made.add_argument("--name", default="", help="keep the policy as the profile of this name, if its check lands")
    made.add_argument("--force", action="store_true", help="keep it even if its check lies outside of what was stated")
    made.add_argument("-n", "--n", type=int, default=0,
                      help="questions: of a file at most so many (0: all), of a task 0 is 200; of repeat's pool 240")
    made.add_argument("--seed", type=int, default=0, help="of questions and of what is drawn of them (default 0)")
    made.add_argument("--concurrency", type=positive, default=16,
                      help="questions open at a time (default 16; latencies are measured under this load)")
    made.add_argument("--max-new-tokens", type=int, default=0, help="of an answer (default: the router's)")
    made.add_argument("--latency-model", type=Path, help="a latency.json: latencies are modelled, not measured")
    made.add_argument("--cache", type=Path, help="keep outcomes in this file: what was asked is not asked again")
    made.add_argument("--router", default=os.environ.get("RSTITCH_ROUTER", ""),
                      help=f"HOST:PORT (default {ROUTER_ADDRESS}; repeat: start a stack)")
    made.add_argument("--json", action="store_true", help="print JSON")
    made.add_argument("--repeats", type=positive, default=20, help="repeat: calibrations for each goal (default 20)")
    made.add_argument("--write", action="store_true", help="repeat: the table of docs/calibration.md")
    # fmt: on
    add_stack_arguments(made)
    return made


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit code."""
    options = parser().parse_args(arguments)
    console = Console(stderr=options.json, highlight=False)
    try:
        if options.router or options.command == "run":
            _refuse_stack_flags(options)
        with stopped_by_signals(), ExitStack() as held, progress_bar(console) as progress:
            result = asyncio.run(_COMMANDS[options.command](options, held, progress))
    except (StackError, RstitchError, ValueError, OSError) as error:
        Console(stderr=True).print(f"error: {error}", style="bold red", markup=False, soft_wrap=True)
        return 1 if isinstance(error, StackError) else 2
    except KeyboardInterrupt:
        return 130
    for told in result.told:
        console.print(told, markup=False, soft_wrap=True)
    if options.json:
        sys.stdout.write(json.dumps(result.plain) + "\n")
    return 0 if result.good else 3


def _refuse_stack_flags(options: argparse.Namespace) -> None:
    """A router that runs has its models already. Raises: RstitchError that names the flag."""
    stack = argparse.ArgumentParser(add_help=False)
    add_stack_arguments(stack)
    for name, default in vars(stack.parse_args([])).items():
        if getattr(options, name) != default:
            raise invalid(
                f"--{name.replace('_', '-')}",
                f"a router that runs is asked ({options.router or ROUTER_ADDRESS}), and its models are its own.",
                "Leave it out, and start the stack with the models you mean: `rstitch up`.",
            )


def _number(text: str, unit: str, example: str) -> float:
    try:
        return float(text.removesuffix(unit)) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number such as {example}") from None


if __name__ == "__main__":
    sys.exit(main())
