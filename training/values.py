"""What the words of flags mean that typer does not read: lists with commas between, shares, times. It knows no flag."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rstitch.errors import invalid


def positives(flag: str, text: str) -> tuple[int, ...]:
    """Reads whole numbers above 0; none if empty. Raises InvalidArgument that names the flag."""
    parts = _parts(text)
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise invalid(flag, f"{text!r} is not whole numbers above 0.", "Write them with commas between: 64,32.")
    return tuple(int(part) for part in parts)


def numbers(flag: str, text: str) -> tuple[float, ...]:
    """Reads numbers; none if empty. Raises InvalidArgument that names the flag."""
    try:
        found = tuple(float(part) for part in _parts(text))
    except ValueError:
        raise invalid(flag, f"{text!r} is not numbers.", "Write them with commas between: 0.01,0.02.") from None
    if not all(math.isfinite(number) for number in found):
        raise invalid(flag, f"{text!r} is not finite.", "Give finite numbers.")
    return found


def rates(flag: str, text: str) -> tuple[float, ...]:
    """Reads numbers above 0; none if empty. Raises InvalidArgument that names the flag."""
    found = numbers(flag, text)
    if not all(number > 0 for number in found):
        raise invalid(flag, f"{text!r}: each should be above 0.", "Leave out the others.")
    return found


def some_of(flag: str, text: str, words: Sequence[str]) -> tuple[str, ...]:
    """Reads some of these words; none if empty. Raises InvalidArgument that names the flag."""
    return tuple(one_of(flag, part, words) for part in _parts(text))


def one_of(flag: str, word: str, words: Sequence[str]) -> str:
    """Gives the word. Raises InvalidArgument, which names the flag, if it is none of `words`."""
    if word not in words:
        raise invalid(flag, f"there is no {word!r}.", f"Choose of {', '.join(words)}.")
    return word


def share(flag: str, text: str) -> float:
    """Reads 0.01 or 1%. Raises InvalidArgument that names the flag."""
    return _number(flag, text, "%", "0.01 or 1%") / (100 if text.endswith("%") else 1)


def times(flag: str, text: str) -> float:
    """Reads 2x or 2. Raises InvalidArgument that names the flag."""
    return _number(flag, text, "x", "2x")


def _number(flag: str, text: str, unit: str, example: str) -> float:
    try:
        return float(text.removesuffix(unit))
    except ValueError:
        raise invalid(flag, f"{text!r} is no number.", f"Write one such as {example}.") from None


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")] if text else []
