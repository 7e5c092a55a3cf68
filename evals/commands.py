"""A program of several commands, each a module of its name in one package; only the one that is asked for is loaded."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping

from rstitch.cli.common import FAILED, INTERRUPTED, exit_code, print_error
from rstitch.errors import RstitchError
from rstitch.local.part import StackError


def run_command(
    prog: str, description: str | None, package: str, commands: Mapping[str, str], arguments: list[str]
) -> int:
    """Runs the command that comes first in `arguments`.

    A module has `add_arguments(parser)` and `run(options) -> exit code`. Errors are said on stderr.

    Args:
        commands: names, and what they do.

    Returns: the exit code: 2 for bad input, 1 for other failures.
    """
    parser = argparse.ArgumentParser(prog=prog, description=description)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, summary in commands.items():
        command = subparsers.add_parser(name, help=summary)
        if arguments and name == arguments[0]:
            module = importlib.import_module(f"{package}.{name}")
            command.description, command.formatter_class = module.__doc__, argparse.RawDescriptionHelpFormatter
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
