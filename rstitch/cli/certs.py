"""`rstitch certs`: a test authority and certificates for every part of a stack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from rstitch.authority import AUTHORITY, PARTS, make_certificates
from rstitch.cli.common import command, err
from rstitch.errors import invalid

# One word for both workers.
_WORKER = ("slm", "llm")


@command
def certs(
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="A folder for the files; it is made.")],
    name: Annotated[
        list[str],
        typer.Option(
            metavar="PART=HOST", help="A further name or address of router, worker, slm, llm or redis; with commas."
        ),
    ] = [],  # noqa: B006 - typer's own way to say: none
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long they hold.")] = 30,
) -> None:
    """Makes a test authority, and certificates of it for router, workers, Redis, a client and Prometheus."""
    made = make_certificates(folder, _further_names(name), days)
    for path in made:
        typer.echo(path)
    told = f"Only this user may read the keys. Put {AUTHORITY}.key away: who has it can make certificates of his own."
    err().print(told, style="dim", soft_wrap=True)


def _further_names(given: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for pair in (pair for text in given for pair in text.split(",")):
        part, _, host = (piece.strip() for piece in pair.partition("="))
        parts = _WORKER if part == "worker" else (part,)
        if not host or not set(parts) <= set(PARTS):
            known = ", ".join((*PARTS, "worker"))
            raise invalid("--name", f"{pair!r} is not PART=HOST.", f"PART is one of {known}.")
        for each in parts:
            found.setdefault(each, []).append(host)
    return found
