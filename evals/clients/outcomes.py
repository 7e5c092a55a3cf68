"""What became of a program: passed, failed, or left out and why; and the table of many. It knows no program."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text


class State(StrEnum):
    """How a program or a suite ended; left out is what this machine lacks something for."""

    PASSED = "passed"
    FAILED = "failed"
    LEFT_OUT = "left out"


_STYLES = {State.PASSED: "green", State.FAILED: "bold red", State.LEFT_OUT: "yellow"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """A program, the release of whose it is, and how it went; `note` has the reason or the figure."""

    name: str
    version: str
    state: State
    note: str = ""


class Unavailable(Exception):
    """Something that a program needs cannot be had on this machine; the message says what and why."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a program left: its exit code, None if it took too long, and what it wrote, errors apart."""

    code: int | None
    output: str
    errors: str

    @property
    def last_words(self) -> str:
        """Gives the last line that says something, errors first."""
        lines = [line.strip() for text in (self.errors, self.output) for line in text.splitlines()[-1:] if line.strip()]
        return lines[0] if lines else ""

    @property
    def ended(self) -> str:
        """Says how it ended, for whoever looks for the reason."""
        return "it took too long" if self.code is None else f"it ended with code {self.code}: {self.last_words}"


def run_program(command: Sequence[str], env: Mapping[str, str], folder: Path, timeout_s: float) -> Ran:
    """Runs a program with `env` on top of our environment. Raises: Unavailable where it is not installed."""
    try:
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, **env}, timeout=timeout_s,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise Unavailable(f"there is no {command[0]} on this machine") from None
    except subprocess.TimeoutExpired as late:
        return Ran(None, _text(late.stdout), _text(late.stderr))
    return Ran(done.returncode, done.stdout, done.stderr)


def show(outcomes: Sequence[Outcome], what: str, console: Console) -> int:
    """Prints the table. Returns the exit code: 1 if one failed; what is left out has not failed."""
    table = Table(title=what, title_justify="left")
    for heading in ("program", "release", "state", "note"):
        table.add_column(heading, overflow="fold")
    for each in outcomes:
        table.add_row(each.name, each.version, Text(each.state, style=_STYLES[each.state]), Text(each.note))
    console.print(table)
    return int(any(each.state is State.FAILED for each in outcomes))


def _text(part: bytes | str | None) -> str:
    return part.decode(errors="replace") if isinstance(part, bytes) else part or ""
