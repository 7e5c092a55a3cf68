"""How much longer one kind of answer takes than another: a shift between two samples, and what many of them come to.

All figures are natural logarithms: a ratio of 1.05 is a difference of 0.049. It knows no answers, wire or clock.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from statistics import median

# The spread of a normal distribution over its median absolute deviation.
_SPREAD = 1.4826
# The standard error of the Hodges-Lehmann shift over that of a difference of means, for normally distributed values.
_SHIFT_ERROR = 1.023
# What the spread is taken for before it is seen, and how many values that belief weighs.
_PRIOR_SPREAD, _PRIOR_VALUES = 0.25, 4
# What two samples have in common that were not taken at one time (other work on the machine), and no number of values
# takes away; and by how much a ratio may move from one comparison to the next.
_BLOCK_ERROR, _DRIFT = 0.05, 0.1
# A comparison so many standard errors away from all before it says that the situation is another.
_SURPRISE = 3.0


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference of logarithms and its standard error."""

    value: float
    error: float


def shift(these: Collection[float], those: Collection[float]) -> Difference:
    """By how much `these` values are larger than `those`, by Hodges and Lehmann: the median of all differences.

    A few values that are far off, as of an answer that waited for a lost worker, do not move it. Neither may be empty.
    """
    scatter = [_PRIOR_VALUES * _PRIOR_SPREAD**2, _square_deviations(these), _square_deviations(those)]
    variance = sum(scatter) / (_PRIOR_VALUES + len(these) + len(those))
    error = _SHIFT_ERROR * math.sqrt(variance * (1 / len(these) + 1 / len(those)))
    return Difference(median(this - that for this in these for that in those), math.hypot(error, _BLOCK_ERROR))


def after(before: Difference | None, seen: Difference) -> Difference:
    """What is known once a difference was `seen` by somebody who knew what was known `before`: a Kalman filter's step.

    What is known grows less exact from one comparison to the next, and is forgotten if it is refuted.
    """
    if before is None:
        return seen
    variance = before.error**2 + _DRIFT**2
    surprise = abs(seen.value - before.value)
    if surprise > _SURPRISE * math.sqrt(variance + seen.error**2):
        return seen
    gain = variance / (variance + seen.error**2)
    return Difference(before.value + gain * (seen.value - before.value), math.sqrt((1 - gain) * variance))


def _square_deviations(values: Collection[float]) -> float:
    """The sum of the squares of the deviations as the median of their sizes has it, which few far values don't move."""
    middle = median(values)
    return len(values) * (_SPREAD * median(abs(value - middle) for value in values)) ** 2
