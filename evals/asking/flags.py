"""Values of flags for argparse, as training reads them; everything else here reads those of `values`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence


def positive(text: str) -> int:
    """Reads a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def positives(text: str) -> list[int]:
    """Reads whole numbers above 0, with commas between them; none if empty."""
    return [positive(part) for part in _parts(text)]


def numbers(text: str) -> list[float]:
    """Reads numbers with commas between them; none if empty."""
    try:
        found = [float(part) for part in _parts(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not numbers with commas between them") from None
    if not all(math.isfinite(number) for number in found):
        raise argparse.ArgumentTypeError(f"{text!r}: each should be finite")
    return found


def rates(text: str) -> list[float]:
    """Reads numbers above 0 with commas between them; none if empty."""
    found = numbers(text)
    if not all(number > 0 for number in found):
        raise argparse.ArgumentTypeError(f"{text!r}: each should be above 0")
    return found


def some_of(names: Sequence[str]) -> Callable[[str], list[str]]:
    """Makes a reader of some of these names, with commas between them."""

    def chosen(text: str) -> list[str]:
        for part in _parts(text):
            if part not in names:
                raise argparse.ArgumentTypeError(f"{part!r} is none of {', '.join(names)}")
        return _parts(text)

    return chosen


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")] if text else []
