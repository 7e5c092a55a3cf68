"""Labels in a file, one JSON object a line, and how they get to a router: all lines are read before any is sent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from rstitch.cli.common import BAD_INPUT, FAILED, err
from rstitch.client.sync import Client
from rstitch.errors import Refused, RstitchError, invalid

WORDS: dict[str, bool | None] = {"right": True, "wrong": False, "none": None}
_REMEDY = "Write right, wrong, or none to take a label back."
# So many lines at fault are shown at most.
_MAX_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Line:
    """One label of a file; `right` is None where it takes one back."""

    number: int
    session_id: str
    right: bool | None


def parse_label(word: str) -> bool | None:
    """Reads a label. Raises: InvalidArgument if it is none."""
    if word not in WORDS:
        raise invalid("label", f"{word!r} is no label.", _REMEDY)
    return WORDS[word]


def label_all(client: Client, path: Path) -> None:
    """Labels what a file says, line by line; what the router refuses is listed and the rest still done.

    Raises: typer.Exit (2 where a line is at fault, before anything is sent; 1 where the router refused one);
    RstitchError where the router is lost.
    """
    lines = read(path)
    num_done, refused = 0, []
    with _progress() as progress:
        task = progress.add_task("labelling", total=len(lines))
        for line in lines:
            try:
                client.label_trajectory(line.session_id, line.right)
                num_done += 1
            except Refused as error:
                refused.append(f"{path}:{line.number}: {error}")
            except RstitchError:
                typer.echo(f"labelled {num_done} of {len(lines)}; to do so again changes nothing", err=True)
                raise
            progress.advance(task)
    _list(refused)
    typer.echo(f"labelled {num_done} of {len(lines)}")
    if refused:
        raise typer.Exit(FAILED)


def read(path: Path) -> list[Line]:
    """Reads all labels of a file; empty lines are none. Raises: typer.Exit (2) after a list of the lines at fault."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise invalid("--file", f"{path} cannot be read: {error}.", "Name a file of JSON lines in UTF-8.") from None
    lines: list[Line] = []
    faults: list[str] = []
    seen: dict[str, Line] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            made = _parse(number, line)
            before = seen.setdefault(made.session_id, made)
            if before.right is not made.right:
                raise ValueError(f"session {made.session_id} has another label in line {before.number}")
            lines.append(made)
        except ValueError as error:
            faults.append(f"{path}:{number}: {error}")
    if faults:
        _list(faults)
        typer.echo(
            f"{len(faults)} {'line is' if len(faults) == 1 else 'lines are'} at fault; nothing was sent", err=True
        )
        raise typer.Exit(BAD_INPUT)
    if not lines:
        remedy = 'Write lines such as {"session_id": "s1", "label": "right"}.'
        raise invalid("--file", f"there is no label in {path}.", remedy)
    return lines


def _parse(number: int, text: str) -> Line:
    """Reads one line. Raises: ValueError saying what is wrong with it."""
    try:
        given: Any = json.loads(text)
    except ValueError as error:
        raise ValueError(f"it is no JSON: {error}") from None
    if not isinstance(given, dict):
        raise ValueError('it is no object such as {"session_id": "s1", "label": "right"}')
    _check_names(given)
    session_id, word = given["session_id"], given["label"]
    if not isinstance(session_id, str) or not session_id:
        raise ValueError(f"session_id: {session_id!r} is no session id")
    if not isinstance(word, str) or word not in WORDS:
        raise ValueError(f"label: {word!r} is no label. {_REMEDY}")
    return Line(number, session_id, WORDS[word])


def _check_names(given: dict[str, Any]) -> None:
    for name in ("session_id", "label"):
        if name not in given:
            raise ValueError(f"{name}: there is none")


def _list(faults: Sequence[str]) -> None:
    for fault in faults[:_MAX_SHOWN]:
        typer.echo(fault, err=True)
    if len(faults) > _MAX_SHOWN:
        typer.echo(f"and {len(faults) - _MAX_SHOWN} more", err=True)


def _progress() -> Progress:
    """A bar on a terminal; nothing elsewhere."""
    console = err()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
