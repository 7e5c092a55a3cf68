"""`rstitch bench COMMAND`, or `python -m evals.bench COMMAND`: measures speed. Without a command: `run`."""

from __future__ import annotations

import argparse
import importlib
import sys

from rich.console import Console

from rstitch.errors import RstitchError
from rstitch.local.part import StackError

# Each is the module of its name, with `add_arguments(parser)` and `run(options) -> exit code`, loaded when asked for.
COMMANDS = {
    "run": "the systems side by side: latency, throughput, accuracy, where the time of a token goes (default)",
    "engine": "an engine's step by batch and context, beside a bare transformers forward",
    "switch": "what a switch costs by the length of the catch-up",
    "replay": "models of any size with random weights, routed by recorded traces",
    "overhead": "what a token and a switch cost outside the forwards, beside a bare loop",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments = ["run", *arguments]
    parser = argparse.ArgumentParser(prog="rstitch bench", description="Measures speed, in one run on one machine.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary)
        if name == arguments[0]:
            module = importlib.import_module(f"evals.bench.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    try:
        code: int = options.run(options)
    except (StackError, RstitchError) as error:
        Console(stderr=True).print(str(error), style="bold red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
