"""Options of a command as its command line would give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from evals.commands import run_program

T = TypeVar("T")


def parsed(options: type[T], arguments: Sequence[str]) -> T:
    """Reads the value of the dataclass `options`; words that are refused are an AssertionError, said on stderr."""
    found: list[T] = []

    def run(chosen: T) -> int:
        found.append(chosen)
        return 0

    assert run_program("program", "", run, options, arguments) == 0
    return found[0]
