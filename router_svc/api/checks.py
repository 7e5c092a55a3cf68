"""Checks of single fields, whichever request has them: what each refuses names the field and the remedy."""

from __future__ import annotations

import math
from typing import Any

from rstitch.errors import invalid
from rstitch.limits import MAX_TAU, MIN_TAU


def check_probability(field: str, value: float) -> float:
    """Gives a probability back. Raises RstitchError if it is none."""
    require(0 <= value <= 1, field, f"{value} is no probability.", "Use a number in [0, 1].")
    return value


def check_tau(field: str, value: float) -> float:
    """Gives a bound of an entropy back. Raises RstitchError if it cannot be one."""
    is_one = math.isfinite(value) and MIN_TAU <= value <= MAX_TAU
    remedy = f"Use a number in [{MIN_TAU:g}, {MAX_TAU:g}]; entropies lie in [0, 1]."
    require(is_one, field, f"{value} is no entropy threshold.", remedy)
    return value


def require_text(field: str, text: str, most: int, *, may_be_empty: bool = False) -> None:
    """Raises RstitchError unless a text has at least one character and at most so many."""
    require(text or may_be_empty, field, "it is empty.", "Leave it out, or give it at least one character.")
    require(len(text) <= most, field, f"{len(text)} characters are too many.", f"Use at most {most}.")


def require_known(kind: Any, field: str, value: int, remedy: str, what: str = "none that this router knows") -> None:
    """Raises RstitchError for a number that an enum of the contract does not have."""
    # proto3 passes on the numbers that this version does not know, so that each enum is looked up before it is used.
    require(value in kind.values(), field, f"{value} is {what}.", remedy)


def require(is_right: object, field: str, what: str, remedy: str) -> None:
    """Raises RstitchError (INVALID_ARGUMENT), naming the field and the remedy, unless something is right."""
    if not is_right:
        raise invalid(field, what, remedy)
