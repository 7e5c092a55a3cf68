"""What answers came to: accuracy, modelled latency, switches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from evals.figures.statistics import wilson
from training.head.rollouts.types import Rollout


@dataclass(frozen=True, slots=True)
class Figures:
    """Means over n answers; accuracy with its 95% Wilson interval, in [0, 1].

    Attributes:
        right_latency_ms: the mean over all answers of the latency of the right ones; the wrong count as 0.
    """

    name: str
    n: int
    accuracy: float
    low: float
    high: float
    latency_ms: float
    num_tokens: float
    llm_share: float
    num_switches: float
    num_consultations: float
    right_latency_ms: float

    def reward(self, price: float) -> float:
        """Mean of r_acc - lambda * r_acc * L."""
        return self.accuracy - price * self.right_latency_ms


def figures_of(name: str, rollouts: Sequence[Rollout]) -> Figures:
    """Takes the means of answers, of which there is at least one."""
    n, num_right = len(rollouts), sum(each.right for each in rollouts)
    num_tokens = sum(each.num_tokens for each in rollouts)
    return Figures(
        name,
        n,
        num_right / n,
        *wilson(num_right, n),
        latency_ms=fmean(each.latency_ms for each in rollouts),
        num_tokens=num_tokens / n,
        llm_share=sum(each.num_llm_tokens for each in rollouts) / max(1, num_tokens),
        num_switches=fmean(each.num_switches for each in rollouts),
        num_consultations=fmean(each.num_consultations for each in rollouts),
        right_latency_ms=fmean(each.right * each.latency_ms for each in rollouts),
    )
