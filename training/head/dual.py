"""The price lambda: fixed (the paper's), or found so that a target is met: the dual of a constrained problem (ours).

The reward of an answer is r_acc - lambda * r_acc * L. With a target lambda is the Lagrange multiplier of

- a loss: be as fast as can be with an accuracy of at least the LLM's, less the loss that is stated;
- a speed: be as accurate as can be with a latency of at most the LLM's, divided by the speed-up that is stated.

After each step of DAPO the *slack* of its answers is measured: accuracy less the least wanted, or the part by which
they are faster than wanted. With g the slack smoothed over steps (weight `1 - smoothing` for the new one, its start
corrected as Adam's means are) and s its standard error,

    log lambda <- log lambda +- rate * clip(g / (unit + 2 s), -1, 1)

where + is for a loss (room to be cheaper: a higher price) and - for a speed (fast enough: a lower one). So lambda moves
by a factor of at most e^rate a step, moves little while the slack is within what chance does, and stays between `least`
and `most`. The update is multiplicative since prices of interest lie orders of magnitude apart, and stay positive.
`Dual.interval` gives g with its 95% interval: what the answers so far say of whether the target is met.

Departures from the theory of such methods: the accuracy is that of exploring answers, whose decisions are drawn, and a
head that decides by itself is mostly the better one, so that a target is met with something to spare; and what is
bought with lambda is the latency of *right* answers. The price of the head that is served is chosen on dev afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, variance
from typing import Literal

from rstitch.errors import invalid
from training.head.rollouts.types import Rollout

PRICE_SHARE = 0.1  # of the reward of a right LLM-only answer: what the paper's lambda takes of its 20-second answers
_LEAST_SHARE, _MOST_SHARE = 0.001, 0.9  # likewise, the bounds of a lambda that is found
_LEAST_UNIT, _SPEED_UNIT = 0.005, 0.1
_Z = 1.96  # of a normal's 95%

Kind = Literal["fixed", "loss", "speed"]


@dataclass(frozen=True, slots=True)
class Price:
    """The multiplier, as a step leaves it.

    Attributes:
        value: lambda, per ms.
        slack: smoothed, not corrected for its start.
        variance: of `slack`.
        weight: of all steps in `slack`, from 0 towards 1.
    """

    value: float
    slack: float = 0.0
    variance: float = 0.0
    weight: float = 0.0


@dataclass(frozen=True, slots=True)
class Dual:
    """How the price is set. Made by `dual_of`.

    Attributes:
        start, least, most: lambda, per ms.
        wanted: the least accuracy in [0, 1] (loss), the most ms (speed); nothing if the price is fixed.
        loss: of accuracy, as it was stated.
        unit: the slack at which the price moves at its full rate, beside chance.
        wanted_variance: of `wanted`, which was measured on a sample.
        rate: of log lambda a step; smoothing: of the slack, in [0, 1).
    """

    kind: Kind
    start: float
    least: float = 0.0
    most: float = math.inf
    wanted: float = 0.0
    loss: float = 0.0
    unit: float = 1.0
    wanted_variance: float = 0.0
    rate: float = 0.25
    smoothing: float = 0.7

    def begin(self) -> Price:
        return Price(self.start)

    def after(self, price: Price, groups: Sequence[Sequence[Rollout]]) -> Price:
        """The price after a step, whose answers come by question: those to one question are alike."""
        if self.kind == "fixed" or not groups:
            return price
        means = [fmean(map(self._slack, group)) for group in groups]
        # Of a single group nothing is known of the spread: as wide as can be.
        chance = variance(means) / len(means) if len(means) > 1 else 1.0
        new = 1 - self.smoothing
        price = replace(
            price,
            slack=self.smoothing * price.slack + new * fmean(means),
            variance=self.smoothing**2 * price.variance + new**2 * chance,
            weight=self.smoothing * price.weight + new,
        )
        slack = price.slack / price.weight
        move = self.rate * max(-1.0, min(1.0, slack / (self.unit + 2 * self._error(price))))
        value = price.value * math.exp(move if self.kind == "loss" else -move)
        return replace(price, value=min(self.most, max(self.least, value)))

    def interval(self, price: Price) -> tuple[float, float, float]:
        """The slack with its 95% interval: (low, slack, high); nothing is known before the first step."""
        if not price.weight:
            return -math.inf, 0.0, math.inf
        slack, half = price.slack / price.weight, _Z * self._error(price)
        return slack - half, slack, slack + half

    def _error(self, price: Price) -> float:
        return math.sqrt(price.variance / price.weight**2 + self.wanted_variance)

    def _slack(self, rollout: Rollout) -> float:
        return rollout.right - self.wanted if self.kind == "loss" else 1 - rollout.latency_ms / self.wanted


def dual_of(
    price: float | None, loss: float | None, speed_up: float | None, llm_accuracy: float, llm_latency_ms: float, n: int
) -> Dual:
    """How the price is set, from what was asked for (at most one of the first three) and how the LLM alone does.

    Args:
        price: lambda, per ms.
        loss: of accuracy, in [0, 1).
        speed_up: over the LLM alone, more than 1.
        n: answers by the LLM alone.
    """
    per_share = 1 / llm_latency_ms
    if price is not None:
        if not 0 < price < math.inf:
            raise invalid("--price", f"{price:g} is no price of a millisecond.", "Give more than 0, such as 5e-6.")
        return Dual("fixed", price)
    start = PRICE_SHARE * per_share
    least, most = _LEAST_SHARE * per_share, _MOST_SHARE * per_share
    if loss is not None:
        if not 0 <= loss < llm_accuracy:
            what = f"a loss of {loss:.1%} leaves nothing of the LLM's {llm_accuracy:.1%}."
            raise invalid("--target-loss", what, "Give less, such as 1%.")
        chance = llm_accuracy * (1 - llm_accuracy) / n
        return Dual("loss", start, least, most, llm_accuracy - loss, loss, max(loss, _LEAST_UNIT), chance)
    if speed_up is not None:
        if not 1 < speed_up < math.inf:
            raise invalid("--target-latency", f"{speed_up:g}x is no speed-up.", "Give more than 1x, such as 2x.")
        return Dual("speed", start, least, most, llm_latency_ms / speed_up, unit=_SPEED_UNIT)
    return Dual("fixed", start)
