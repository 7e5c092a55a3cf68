"""Intervals for figures that are measured on samples, all 95%. It knows nothing of what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

_DRAWS = 2000


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson score interval of a proportion, in [0, 1]."""
    if n == 0:
        return 0.0, 1.0
    found = stats.binomtest(successes, n).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def bootstrap_mean(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean and its percentile bootstrap interval (fixed seed); of differences, a paired bootstrap."""
    return _bootstrap(lambda drawn, axis: np.mean(drawn, axis=axis), values)


def paired_difference(ours: Sequence[bool], theirs: Sequence[bool]) -> tuple[float, float, float]:
    """Mean of ours - theirs on the same problems, and its bootstrap interval (fixed seed)."""
    assert len(ours) == len(theirs), "paired: one outcome each per problem"
    return bootstrap_mean(np.subtract(ours, theirs, dtype=float).tolist())


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Mean of ours over mean of theirs on the same problems, and its bootstrap interval (fixed seed)."""
    assert len(ours) == len(theirs), "paired: one value each per problem"
    return _bootstrap(lambda a, b, axis: np.sum(a, axis=axis) / np.sum(b, axis=axis), ours, theirs)


def _bootstrap(statistic: Callable[..., Any], *samples: Sequence[float]) -> tuple[float, float, float]:
    """A statistic and its percentile interval; samples are drawn together. One value alone is its own interval."""
    data = [np.asarray(sample, dtype=float) for sample in samples]
    value = float(statistic(*data, axis=-1))
    if len(data[0]) < 2:
        return value, value, value
    found = stats.bootstrap(
        data, statistic, paired=True, vectorized=True, n_resamples=_DRAWS, method="percentile", random_state=0
    ).confidence_interval
    return value, float(found.low), float(found.high)


def unseen_difference(n: int, z: float = 1.96) -> float:
    """Half the score interval of a paired difference of proportions where all n pairs agree (Tango 1998).

    A bootstrap of nothing but zeros would say that there is none.
    """
    return z * z / (n + z * z)


def mcnemar(ours: Sequence[bool], theirs: Sequence[bool]) -> float:
    """Exact p of two systems being as often right, by the problems that only one of them solves (McNemar 1947)."""
    assert len(ours) == len(theirs), "paired: one outcome each per problem"
    only_ours = sum(a and not b for a, b in zip(ours, theirs, strict=True))
    discordant = sum(a != b for a, b in zip(ours, theirs, strict=True))
    return float(stats.binomtest(only_ours, discordant).pvalue) if discordant else 1.0
