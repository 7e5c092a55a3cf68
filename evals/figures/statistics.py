"""Intervals for figures that are measured on samples. It knows nothing of what was measured."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
from scipy import stats


def wilson(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """95% Wilson score interval of a proportion, in [0, 1]."""
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return min(centre - half, share), max(centre + half, share)  # of none and of all, but for rounding


def paired_difference(ours: Sequence[bool], theirs: Sequence[bool], draws: int = 2000) -> tuple[float, float, float]:
    """Mean of ours - theirs on the same problems, and its 95% bootstrap interval (fixed seed)."""
    assert len(ours) == len(theirs), "paired: one outcome each per problem"
    differences = [int(a) - int(b) for a, b in zip(ours, theirs, strict=True)]
    n = len(differences)
    rng = random.Random(0)
    means = sorted(sum(rng.choices(differences, k=n)) / n for _ in range(draws))
    return sum(differences) / n, means[int(0.025 * draws)], means[int(0.975 * draws)]


def paired_ratio(ours: Sequence[float], theirs: Sequence[float], draws: int = 2000) -> tuple[float, float, float]:
    """Mean of ours over mean of theirs on the same problems, and its 95% bootstrap interval (fixed seed)."""
    assert len(ours) == len(theirs), "paired: one value each per problem"
    pairs = np.array([ours, theirs], dtype=float)
    drawn = np.random.default_rng(0).integers(len(ours), size=(draws, len(ours)))
    sums = pairs[:, drawn].sum(axis=2)
    low, high = np.percentile(sums[0] / sums[1], (2.5, 97.5))
    return float(pairs[0].sum() / pairs[1].sum()), float(low), float(high)


def bootstrap_mean(values: Sequence[float], draws: int = 2000) -> tuple[float, float, float]:
    """The mean and its 95% percentile bootstrap interval (fixed seed); of differences, a paired bootstrap."""
    data = np.asarray(values, dtype=float)
    drawn = np.random.default_rng(0).integers(len(data), size=(draws, len(data)))
    low, high = np.percentile(data[drawn].mean(axis=1), (2.5, 97.5))
    return float(data.mean()), float(low), float(high)


def unseen_difference(n: int, z: float = 1.96) -> float:
    """Half the 95% score interval of a paired difference of proportions where all n pairs agree (Tango 1998).

    A bootstrap of nothing but zeros would say that there is none.
    """
    return z * z / (n + z * z)


def mcnemar(ours: Sequence[bool], theirs: Sequence[bool]) -> float:
    """Exact p of two systems being as often right, by the problems that only one of them solves (McNemar 1947)."""
    assert len(ours) == len(theirs), "paired: one outcome each per problem"
    only_ours = sum(a and not b for a, b in zip(ours, theirs, strict=True))
    only_theirs = sum(b and not a for a, b in zip(ours, theirs, strict=True))
    discordant = only_ours + only_theirs
    return float(stats.binomtest(only_ours, discordant).pvalue) if discordant else 1.0
