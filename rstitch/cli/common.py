"""What the commands share: options, consoles, and errors as one red line with a remedy."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Annotated, Any, ParamSpec

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from rstitch.cli.access import with_access
from rstitch.cli.log_lines import last_lines
from rstitch.errors import Refused, RstitchError
from rstitch.local.part import StackError

P = ParamSpec("P")

Router = Annotated[
    str, typer.Option("--router", envvar="RSTITCH_ROUTER", metavar="HOST:PORT", help="Address of the router.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130

_NUM_LOG_LINES = 12
_UNBOUNDED = 100_000


def out() -> Console:
    """Makes the console that results go to; anew for each command, since the terminal may have another size by now."""
    return Console(highlight=False)


def err() -> Console:
    """Makes the console that everything goes to which is no result."""
    return Console(stderr=True, highlight=False)


def print_whole(console: Console, table: Table) -> None:
    """Prints a table as wide as its cells are, so that no id is cut: a narrower terminal wraps the lines itself."""
    unbounded = console.options.update(max_width=_UNBOUNDED)
    console.width = max(console.width, Measurement.get(console, unbounded, table).maximum)
    console.print(table)


def command(function: Callable[P, None]) -> Callable[P, None]:
    """Makes a command tell its errors to people: one red line, exit code 2 for bad input and 1 for the rest.

    One with a parameter `access` gets the options of TLS and key.
    """
    called = with_access(function)

    @functools.wraps(called)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            called(*args, **kwargs)
        except RstitchError as error:
            print_error(str(error))
            raise typer.Exit(exit_code(error)) from None
        except StackError as error:
            for line in last_lines(error.log, _NUM_LOG_LINES):
                err().print(Text(f"  {line}", style="dim"), soft_wrap=True)
            print_error(" ".join(filter(None, [str(error.args[0]), error.remedy])))
            raise typer.Exit(FAILED) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None

    return guarded


def exit_code(error: RstitchError) -> int:
    """Tells bad input (2) from what went wrong with good input (1)."""
    return BAD_INPUT if isinstance(error, Refused) else FAILED


def print_error(message: str) -> None:
    """Prints one red line on stderr, whatever line ends the message has."""
    err().print(Text(f"error: {' '.join(message.split())}", style="bold red"), soft_wrap=True)


def print_json(value: Any) -> None:
    """Prints a value as one line of JSON on stdout."""
    typer.echo(json.dumps(value, ensure_ascii=False))
