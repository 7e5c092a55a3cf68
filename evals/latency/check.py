"""Modelled beside measured latency of whole answers to questions that nothing was fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from evals.figures.intervals import Interval
from evals.figures.report import Row
from evals.latency.answers import Measured
from evals.latency.calls import Service
from evals.latency.model import LatencyModel

WITHIN = 0.15  # the target, of the median of |modelled - measured| / measured


@dataclass(frozen=True, slots=True)
class Checked:
    """Answers and what the model says of them, in ms.

    Attributes:
        modelled_ms: with what serving adds and the catch-up beside.
        calls_ms: the sum of the calls of Algorithm 1 alone: L of R-Stitch+.
        median_error: of the former.
        rank_correlation: Spearman's, of the latter with what was measured: all that a reward needs is the order.
    """

    answers: Sequence[Measured]
    modelled_ms: NDArray[np.float64]
    calls_ms: NDArray[np.float64]
    median_error: Interval
    rank_correlation: float

    @property
    def systems(self) -> list[str]:
        """In the order of their first answers' names."""
        return sorted({answer.system for answer in self.answers})

    def rows(self) -> list[Row]:
        named = [answer.system for answer in self.answers]
        chosen = {system: [i for i, name in enumerate(named) if name == system] for system in self.systems}
        return [self._row(name, numbers) for name, numbers in {"all": list(range(len(named))), **chosen}.items()]

    def _row(self, name: str, numbers: list[int]) -> Row:
        measured = np.array([self.answers[number].latency_ms for number in numbers])
        modelled, calls = self.modelled_ms[numbers], self.calls_ms[numbers]
        error = median_interval(np.abs(modelled - measured) / measured)
        return {
            "system": name,
            "n": len(numbers),
            "measured_ms": float(np.median(measured)),
            "modelled_ms": float(np.median(modelled)),
            "calls_ms": float(np.median(calls)),
            "error": error.value,
            "error_low": error.low,
            "error_high": error.high,
            "bias": float(np.median(modelled / measured)) - 1,
        }


def check(model: LatencyModel, answers: Sequence[Measured], service: Service) -> Checked:
    """Compares what the model says with at least one measured answer."""
    measured = np.array([answer.latency_ms for answer in answers])
    modelled = np.array([model.trajectory_ms(a.num_prompt_tokens, a.runs, service) for a in answers])
    calls = np.array([model.trajectory_ms(a.num_prompt_tokens, a.runs) for a in answers])
    correlation = float(spearmanr(calls, measured).statistic) if len(answers) > 1 else 1.0
    return Checked(answers, modelled, calls, median_interval(np.abs(modelled - measured) / measured), correlation)


def median_interval(values: NDArray[np.float64], draws: int = 2000) -> Interval:
    """The median and its 95% bootstrap interval (fixed seed)."""
    drawn = np.random.default_rng(0).choice(values, size=(draws, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), (2.5, 97.5))
    return Interval(float(np.median(values)), float(low), float(high))
