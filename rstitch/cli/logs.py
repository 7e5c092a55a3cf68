"""`rstitch logs`: what the parts of a stack that runs on this machine have logged, and go on to log."""

from __future__ import annotations

import time
from typing import Annotated

import grpc
import typer
from rich.console import Console
from rich.text import Text

from rstitch.cli.common import command, out
from rstitch.cli.log_lines import timed
from rstitch.errors import RstitchError, invalid
from rstitch.local.records import LogReader, Record, running_stacks

_POLL_S = 0.2
_STYLES = {"slm worker": "cyan", "llm worker": "magenta", "router": "green", "gateway": "blue", "redis": "yellow"}


@command
def logs(
    part: Annotated[
        str, typer.Argument(help="redis, slm, llm, router or gateway; all of them by default.", show_default=False)
    ] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="So many of each part's last lines.")] = 20,
    router: Annotated[
        str, typer.Option("--router", metavar="HOST:PORT", help="Of the stack with this router.", show_default=False)
    ] = "",
    raw: Annotated[bool, typer.Option("--raw", help="Lines as they were written.")] = False,
) -> None:
    """Shows what the parts of a stack of `rstitch up` have logged."""
    stack = _stack_of(router)
    readers = _readers(stack, part)
    console = out()
    for name, reader in readers.items():
        for line in list(reader.new_lines())[-lines:] if lines else ():
            _print(console, name, line, raw)
    while follow and stack in running_stacks():
        for name, path in stack.logs.items():
            if not part:  # a part that came later, such as one more router
                readers.setdefault(name, LogReader(path))
        for name, reader in readers.items():
            for line in reader.new_lines():
                _print(console, name, line, raw)
        time.sleep(_POLL_S)


def _stack_of(router: str) -> Record:
    """Finds the stack that is meant. Raises: RstitchError where there is none, or several and none is named."""
    found = running_stacks()
    meant = [stack for stack in found if router in ("", stack.router)]
    if len(meant) == 1:
        return meant[0]
    there = ", ".join(stack.router for stack in found)
    if meant:
        raise invalid("--router", f"there are several stacks here: {there}.", "Name one of them.")
    remedy = f"There are {there}." if found else "`rstitch up` starts one; containers: `docker compose logs`."
    which = f"no stack with the router {router} runs" if router else "no stack runs"
    raise RstitchError(grpc.StatusCode.NOT_FOUND, "NO_STACK", f"{which} on this machine.", remedy=remedy)


def _readers(stack: Record, part: str) -> dict[str, LogReader]:
    """Makes a reader for each part that is meant. Raises: RstitchError for a part that there is not."""
    logs = stack.logs
    word = part.replace("-", " ")
    named = {name: path for name, path in logs.items() if not part or word in (name, name.removesuffix(" worker"))}
    if not named:
        raise invalid("part", f"there is no {part}.", f"Choose one of {', '.join(logs)}.")
    return {name: LogReader(path) for name, path in named.items()}


def _print(console: Console, part: str, line: str, raw: bool) -> None:
    if raw:
        console.print(line, markup=False, soft_wrap=True)
        return
    console.print(Text.assemble((f"{part:<10}  ", _STYLES.get(part, "")), timed(line)), soft_wrap=True)
