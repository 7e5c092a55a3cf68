"""`rstitch export`: stored trajectories into files, for those who analyse them."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from typing import Annotated

import grpc
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from rstitch.cli.common import Router, command, err
from rstitch.client.sync import Client
from rstitch.credentials import Credentials
from rstitch.errors import RstitchError, invalid
from rstitch.export.exporting import Export, Wanted
from rstitch.export.places import place_of
from rstitch.export.writers import WRITERS, pyarrow
from rstitch.limits import ROUTER_ADDRESS

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@command
def export(
    to: Annotated[
        str,
        typer.Option(
            metavar="PLACE",
            help="FILE.jsonl or FILE.parquet: all, in place of what is there. A folder: a part with what has changed "
            "since the last time. s3://BUCKET/PATH, gs://BUCKET/PATH: by pyarrow (rstitch[export]).",
        ),
    ],
    router: Router = ROUTER_ADDRESS,
    access: Credentials = Credentials(),
    format: Annotated[str, typer.Option(help="Of a folder's parts: jsonl or parquet.")] = "",
    since: Annotated[
        str, typer.Option(metavar="TIME", help="Only what has changed since: 2026-11-29, 2026-11-29T12:00Z, or 24h.")
    ] = "",
    labelled: Annotated[bool, typer.Option("--labelled", help="Only those whose last answer has a label.")] = False,
    running: Annotated[bool, typer.Option("--running", help="Also those that are being written.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what changes, until it is stopped.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="With --follow: look so often, in s.")] = 10.0,
) -> None:
    """Writes trajectories as JSON lines or Parquet, one row each with its segments, as the key's tenant has them."""
    place, file = place_of(to)
    kind = _format(file, format)
    if follow and file:
        raise invalid("--follow", "a file has all of it at once.", "Name a folder, which gets a part for what changes.")
    wanted = Wanted(_since(since, datetime.now(UTC)), labelled, running)
    with Client(router, credentials=access) as client:
        exporting = Export(client, place, file, kind, wanted)
        _told(exporting, to)
        away = False
        while follow:
            time.sleep(every)
            try:
                _told(exporting, to, quiet=True)
                away = False
            except RstitchError as error:
                if error.code is not grpc.StatusCode.UNAVAILABLE:
                    raise
                if not away:  # one line for one outage
                    err().print(f"waiting for the router: {error}", style="yellow", soft_wrap=True)
                away = True


def _told(exporting: Export, to: str, *, quiet: bool = False) -> None:
    """Runs one round under a bar, where somebody looks."""
    console = err()
    columns = (TextColumn("exporting"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("exporting", total=None)
        num = exporting.round(lambda done, total: bar.update(task, completed=done, total=total))
    if num or not quiet:
        console.print(f"{num} trajectories to {to}", soft_wrap=True)


def _format(file: str, given: str) -> str:
    """The format that a file's name or the option says. Raises: RstitchError."""
    named = file.rpartition(".")[2]
    if given and given not in WRITERS:
        raise invalid("--format", f"{given[:40]!r} is none.", f"Formats are {', '.join(WRITERS)}.")
    if named and given not in ("", named):
        raise invalid("--format", f"it is {given}, and --to ends with .{named}.", "Leave one of them out.")
    kind = named or given or "jsonl"
    if kind == "parquet":
        pyarrow()  # said before anything is fetched
    return kind


def _since(text: str, now: datetime) -> datetime | None:
    """Reads a moment, or how long ago it was. Raises: RstitchError."""
    if not text:
        return None
    if found := re.fullmatch(r"(\d{1,6})([smhd])", text):
        return now - timedelta(**{_UNITS[found[2]]: int(found[1])})
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        remedy = "Write 2026-11-29, 2026-11-29T12:00Z, or a number and s, m, h or d."
        raise invalid("--since", f"{text[:40]!r} is no time.", remedy) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
