"""What a step will cost: measured at a few shapes, linear in between. Pure numbers; no torch, no clock.

A step holds decode rows (one token each) and other tokens (prompts, catch-up). Three curves say what it takes: decode
rows alone, other tokens alone, and what other tokens add to a step of decode rows. The third is not the second: on CUDA
a step of decode rows runs as a captured graph, and a longer row beside them can cost more than a step of its own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepCost:
    """The median time of a step of `num_rows` sessions with `num_tokens_per_row` tokens each."""

    num_rows: int
    num_tokens_per_row: int
    step_us: int


class Curve:
    """Linear between its points, constant before the first, and after the last as steep as from the first to it.

    More work never costs less: where noise says so, neighbours share their mean.
    """

    def __init__(self, points: Mapping[int, float]) -> None:
        assert points, "a curve needs a point"
        self._xs = sorted(points)
        self._ys = _monotone([points[x] for x in self._xs])

    def at(self, x: int) -> float:
        xs, ys = self._xs, self._ys
        right = bisect_left(xs, x)
        if right == 0:
            return ys[0]
        if right < len(xs):
            share = (x - xs[right - 1]) / (xs[right] - xs[right - 1])
            return ys[right - 1] + share * (ys[right] - ys[right - 1])
        slope = (ys[-1] - ys[0]) / (xs[-1] - xs[0]) if len(xs) > 1 else 0.0
        return ys[-1] + slope * (x - xs[-1])


def _monotone(values: Sequence[float]) -> list[float]:
    """Returns the non-decreasing sequence nearest in squares (pool adjacent violators)."""
    pools: list[tuple[float, int]] = []  # mean and size
    for value in values:
        mean, size = value, 1
        while pools and pools[-1][0] > mean:
            other, count = pools.pop()
            mean, size = (mean * size + other * count) / (size + count), size + count
        pools.append((mean, size))
    return [mean for mean, size in pools for _ in range(size)]


class CostModel:
    """Predicts a step's time in microseconds.

    Args:
        decode: number of decode rows to the time of their step.
        extend: number of tokens of one row to the time of its step.
        ride: number of tokens of one more row to what they add to a step of decode rows; empty: as alone.
    """

    def __init__(self, decode: Mapping[int, float], extend: Mapping[int, float], ride: Mapping[int, float]) -> None:
        # The points of the first two curves, as measured.
        self.step_costs = [StepCost(rows, 1, round(us)) for rows, us in sorted(decode.items())]
        self.step_costs += [StepCost(1, tokens, round(us)) for tokens, us in sorted(extend.items())]
        self._decode = Curve(decode)
        single = decode[min(decode)]
        self._extend = Curve({1: single} | dict(extend))
        ride = ride or {tokens: us - single for tokens, us in extend.items()}
        self._ride = Curve({0: 0.0} | {tokens: max(0.0, us) for tokens, us in ride.items()})

    def step_us(self, num_decode_rows: int, num_other_tokens: int = 0) -> float:
        if num_decode_rows == 0:
            return self._extend.at(num_other_tokens) if num_other_tokens else 0.0
        return self._decode.at(num_decode_rows) + self._ride.at(num_other_tokens)

    def most_tokens(self, num_decode_rows: int, num_other_tokens: int, at_most: int, bound_us: float) -> int:
        """Returns how many tokens of one more row (0 to `at_most`) keep the step's predicted time within `bound_us`.

        A row of one token is a decode row; more are other tokens, which cost more the more they are.
        """
        if at_most == 0:
            return 0
        fits = [0, at_most + 1]  # bisection: fits[0] tokens are within the bound, fits[1] are beyond it
        while fits[1] - fits[0] > 1:
            middle = sum(fits) // 2
            within = self.step_us(num_decode_rows, num_other_tokens + middle) <= bound_us
            fits[0 if within else 1] = middle
        if fits[0] > 1:
            return fits[0]
        # A single token is a decode row, which the search has priced as one of the others.
        return int(self.step_us(num_decode_rows + 1, num_other_tokens) <= bound_us)
