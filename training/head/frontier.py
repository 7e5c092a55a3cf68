"""What a head does on dev beside thresholds and the models alone, each compared with the LLM alone.

Latencies are modelled. The same questions chose the head, so its figures here are a little too good; those of the
thresholds are, too, for whoever takes the best of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from scipy.stats import norm

from evals.figures.intervals import LEVEL, upper_loss
from evals.figures.plots import frontier
from evals.figures.report import Columns, Row, interval
from evals.figures.statistics import paired_difference, paired_ratio, unseen_difference
from evals.tasks.data import Problem
from rstitch.client.policies import Learned, LlmOnly, SlmOnly, Threshold
from rstitch.client.specs import Spec, text_of
from training.head.evaluate import Figures, figures_of
from training.head.recipe import PRICES, TAUS
from training.head.rollouts import Asked, Job, Rollout, Rollouts

LLM_ONLY = "llm_only"
_Z = float(norm.ppf((1 + LEVEL) / 2))  # of the bootstrap's intervals

COLUMNS: Columns = {
    "system": "{system}",
    "accuracy %": interval("accuracy", ".1p"),
    "to LLM-only": interval("difference", "+.1p"),
    "loss at most": "{loss_bound:.1p}",
    "modelled ms": "{latency_ms:sig}",
    "faster": interval("speed_up", ".2f"),
    "tokens": "{num_tokens:.0f}",
    "LLM %": "{llm_share:.1p}",
    "switches": "{num_switches:.1f}",
}


@dataclass(frozen=True, slots=True)
class Point:
    """A system on dev. Accuracies in [0, 1].

    Attributes:
        figures: under the system's name.
        value: tau of a threshold, price of a head.
        harmed, helped: questions that the LLM alone gets right and this gets wrong, and the reverse.
        difference: its accuracy less the LLM's on the same questions, with a 95% interval.
        speed_up: the LLM's mean latency over its own, with a 95% interval.
    """

    kind: Literal["llm_only", "slm_only", "threshold", "learned"]
    value: float | None
    figures: Figures
    harmed: int
    helped: int
    difference: float
    difference_low: float
    difference_high: float
    speed_up: float
    speed_up_low: float
    speed_up_high: float

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Self:
        """From what `dataclasses.asdict` made of one."""
        return cls(**{**plain, "figures": Figures(**plain["figures"])})

    def loss_bound(self, num_heads: int = 1) -> float:
        """The loss is below it (95%, one-sided), for each of so many heads from which it was chosen."""
        if self.kind == "llm_only":
            return 0.0
        return upper_loss(self.harmed, self.helped, self.figures.n, level_for(num_heads))

    def speed_up_bound(self, num_heads: int = 1) -> float:
        """The speed-up is above it (95%, one-sided), for each of so many heads from which it was chosen.

        The bootstrap's interval is carried to that level as if the logarithm of the speed-up were normal.
        """
        z = float(norm.ppf(level_for(num_heads)))
        return float(self.speed_up * (self.speed_up_low / self.speed_up) ** (z / _Z))

    def row(self, num_heads: int = 1) -> Row:
        """For tables and plots, in the words of `rstitch eval`; a head is one of so many that were looked at."""
        row = asdict(self)
        figures = row.pop("figures")
        row |= figures | {"system": figures["name"], "modelled_ms": figures["latency_ms"]}
        return row | {
            "accuracy_low": figures["low"], "accuracy_high": figures["high"],
            "loss_bound": self.loss_bound(num_heads if self.kind == "learned" else 1),
        }  # fmt: skip


def level_for(num_heads: int) -> float:
    """The level at which each of so many heads is tested, that all of them are safe at 95% (Bonferroni)."""
    return 1 - (1 - LEVEL) / num_heads


def systems(head: str, tau: float, taus: Sequence[float] = TAUS, prices: Sequence[float] = PRICES) -> dict[str, Asked]:
    """Who is compared, by name: the models alone, thresholds, the head at some prices.

    Args:
        head: the name under which it is found.
        tau: its gate.
    """
    asked: list[Asked] = [LlmOnly(), SlmOnly(), *map(Threshold, taus)]
    asked += [Learned(head, tau, price=price) for price in prices]
    return {text_of(Spec(policy)): policy for policy in asked}


def measure(
    rollouts: Rollouts,
    asked: Mapping[str, Asked],
    problems: Sequence[Problem],
    on_done: Callable[[Rollout], None],
    name: str,
) -> list[Point]:
    """Has each system answer each question, `LLM_ONLY` among them, and compares them with it.

    Args:
        name: what the head is to be called; in training it is found under another.
    """
    jobs = [Job(problem) for problem in problems]
    answers = {system: rollouts.run(jobs, policy, on_done) for system, policy in asked.items()}
    theirs = answers[LLM_ONLY]
    called = {
        system: replace(policy, name=name) if isinstance(policy, Learned) else policy
        for system, policy in asked.items()
    }
    return [point_of(called[system], ours, theirs) for system, ours in answers.items()]


def point_of(policy: Asked, ours: Sequence[Rollout], theirs: Sequence[Rollout]) -> Point:
    """Compares answers with those of the LLM alone to the same questions."""
    right, llm_right = [each.right for each in ours], [each.right for each in theirs]
    difference, low, high = paired_difference(right, llm_right)
    if low == high and ours is not theirs:
        low, high = difference - unseen_difference(len(ours)), difference + unseen_difference(len(ours))
    harmed = sum(b and not a for a, b in zip(right, llm_right, strict=True))
    helped = sum(a and not b for a, b in zip(right, llm_right, strict=True))
    speed_up = paired_ratio([each.latency_ms for each in theirs], [each.latency_ms for each in ours])
    figures = figures_of(text_of(Spec(policy)), ours)
    return Point(*_kind(policy), figures, harmed, helped, difference, low, high, *speed_up)


def plot(points: Sequence[Point], title: str, path: Path) -> None:
    """Accuracy over modelled latency and over the LLM's share: the head beside thresholds and the models alone."""
    frontier([point.row() for point in points], title, path, "modelled_ms")


def _kind(policy: Asked) -> tuple[Literal["llm_only", "slm_only", "threshold", "learned"], float | None]:
    match policy:
        case Threshold(tau):
            return "threshold", tau
        case Learned():
            return "learned", 1.0 if policy.price is None else policy.price
        case LlmOnly():
            return "llm_only", None
        case SlmOnly():
            return "slm_only", None
