"""`rstitch eval COMMAND`, or `python -m evals.evaluation COMMAND`: how good the answers of each system are."""

from __future__ import annotations

import argparse
import importlib
import sys

from rstitch.cli.common import FAILED, INTERRUPTED, exit_code, print_error
from rstitch.errors import RstitchError
from rstitch.local.part import StackError

# Each is the module of its name, with `add_arguments(parser)` and `run(options) -> exit code`, loaded when asked for.
COMMANDS = {
    "run": "ask each system each problem; one line per answer in a file that can be gone on with",
    "report": "accuracy, latency, tokens and switches of a run, each beside LLM-only",
    "plot": "frontiers of accuracy over latency and over the LLM's share; entropies by model",
    "hurt": "where LLM-only was right and a routed answer wrong, as coloured traces",
    "harmful": "the first token that turned an answer wrong, and the entropy around it",
    "list": "the tasks",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit code: 2 for bad input, 1 for other failures."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="rstitch eval", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary)
        if arguments and name == arguments[0]:
            module = importlib.import_module(f"evals.evaluation.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    try:
        code: int = options.run(options)
    except RstitchError as error:
        print_error(str(error))
        return exit_code(error)
    except StackError as error:
        print_error(str(error))
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


if __name__ == "__main__":
    sys.exit(main())
