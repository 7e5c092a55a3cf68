"""What a sample of questions says of fresh ones. It knows nothing of policies.

All intervals hold 95%; bootstraps have a fixed seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

Array = NDArray[np.float64]
LEVEL = 0.95
_DRAWS = 4000


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure, and where it will be."""

    value: float
    low: float
    high: float

    def holds(self, value: float) -> bool:
        return bool(self.low <= value <= self.high)


def ratio(numerator: Array, denominator: Array) -> float:
    """The ratio of the sums; 0 where there is nothing."""
    total = float(denominator.sum())
    return float(numerator.sum()) / total if total else 0.0


def predicted_ratio(numerator: Array, denominator: Array, num_fresh: int) -> Interval:
    """The ratio of sums, and where that of so many fresh questions will be.

    A bootstrap of two levels: which questions were drawn to calibrate, then which are drawn afresh from what those say
    of the population. Arrays [n], paired by question.
    """
    rng = np.random.default_rng(0)
    n = len(numerator)
    first = rng.integers(n, size=(_DRAWS, n))
    second = np.take_along_axis(first, rng.integers(n, size=(_DRAWS, num_fresh)), axis=1)
    totals = denominator[second].sum(axis=1)
    drawn = numerator[second].sum(axis=1) / np.where(totals, totals, 1)
    # A sample of n spreads a little less than what it was drawn from.
    value, widened = ratio(numerator, denominator), math.sqrt(n / (n - 1))
    low, high = np.quantile(drawn, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(value, max(0.0, float(value + (low - value) * widened)), float(value + (high - value) * widened))


def upper_loss(harmed: int, helped: int, n: int, level: float = LEVEL) -> float:
    """Upper one-sided bound of the loss, of n paired questions by the score test (Tango 1998, Stat. Med. 17:891).

    Args:
        harmed: questions right by the LLM alone and wrong as routed; helped: the reverse.
    """
    z = float(norm.ppf(level))
    estimate = (harmed - helped) / n

    def excess(loss: float) -> float:
        return _score(harmed, helped, n, loss) + z

    if excess(1 - 1e-9) > 0:
        return 1.0
    return float(brentq(excess, max(estimate, -1 + 1e-9) + 1e-12, 1 - 1e-9))


def smallest_provable_loss(n: int, level: float = LEVEL) -> float:
    """The bound where no question out of n was harmed or helped: no lower loss can be shown with n."""
    z = float(norm.ppf(level))
    return z**2 / (n + z**2)


def questions_for(loss: float, level: float = LEVEL) -> int:
    """How many it takes to show a loss so small, if none is harmed."""
    return math.ceil(float(norm.ppf(level)) ** 2 * (1 / loss - 1))


def predicted_loss(harmed: int, helped: int, n: int, num_fresh: int) -> Interval:
    """The loss, and where that of so many fresh questions will be: a multinomial with Jeffreys' prior."""
    rng = np.random.default_rng(0)
    shares = rng.dirichlet((harmed + 0.5, helped + 0.5, n - harmed - helped + 0.5), size=_DRAWS)
    counts = rng.multinomial(num_fresh, shares)
    low, high = np.quantile((counts[:, 0] - counts[:, 1]) / num_fresh, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval((harmed - helped) / n, float(low), float(high))


def _score(harmed: int, helped: int, n: int, loss: float) -> float:
    """Tango's statistic for H0: the loss is `loss`; the share that is helped at its restricted maximum likelihood."""
    a, b = 2 * n, -harmed - helped + (2 * n - harmed + helped) * loss
    c = -helped * loss * (1 - loss)
    share = max(0.0, (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a))
    variance = n * (2 * share + loss * (1 - loss))
    return (harmed - helped - n * loss) / math.sqrt(variance) if variance > 0 else -math.inf
