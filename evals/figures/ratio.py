"""Ratios of times on machines whose speed changes: what is compared is measured in turn, and resampled in blocks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of medians and its 95% bootstrap interval."""

    value: float
    low: float
    high: float


def ratio(ours: Sequence[float], theirs: Sequence[float], block: int = 1, draws: int = 1000) -> Ratio:
    """Median of ours over median of theirs, measured in turn.

    Args:
        block: neighbours are alike; so many pairs are drawn together.
    """
    assert len(ours) == len(theirs) > 0, "measured in turn: as many of each"
    starts = range(0, len(ours), block)
    rng = random.Random(0)
    ratios = []
    for _ in range(draws):
        chosen = rng.choices(starts, k=len(starts))
        a = [value for start in chosen for value in ours[start : start + block]]
        b = [value for start in chosen for value in theirs[start : start + block]]
        ratios.append(median(a) / median(b))
    ratios.sort()
    return Ratio(median(ours) / median(theirs), ratios[int(0.025 * draws)], ratios[int(0.975 * draws)])


def quiet(seconds: Sequence[float]) -> float:
    """The 10th percentile: what it takes while nothing else runs on the machine."""
    return sorted(seconds)[len(seconds) // 10]
