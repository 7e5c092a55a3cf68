"""What a token of the LLM has come to cost at a load: the price by which a head under load asks for less of it.

Each routed answer tells how many of the SLM's tokens one of the LLM's cost it, in waiting:

    x = (time it waited for the LLM / its tokens by the LLM) / (time it waited for the SLM / its tokens by the SLM)

What slows both models alike, such as other work on their machine, cancels within the answer; how many tokens were whose
does not count either, so that a price which lowers the LLM's share is no reason for the next one. At a load,

    price(load) = x(load) / x(1)

with x of the latest answers there: the shift of Hodges and Lehmann between the logarithms of the two samples. 1 is what
a head was trained for. Between the loads that were seen, which are those of the guard, log(price) is interpolated in
log(load); beyond the largest it stays as there. It is 1 until answers were seen alone and at some other load.

It knows no head and no clock.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable
from itertools import pairwise

from router_svc.observers.comparing import shift
from router_svc.observers.guard import bucket_of
from router_svc.trajectory.usage import Usage

# Never under 1: an LLM that load has made cheaper beside its SLM is not asked for more than the head was trained to.
# Over 8 a head would hardly ask at all, and that is for a budget to say.
MIN_PRICE, MAX_PRICE = 1.0, 8.0
MIN_ANSWERS = 6  # at a load, before they say anything
_NUM_ANSWERS = 32  # at a load that count, the latest


class LoadPrices:
    """Watches routed answers of one pair of workers, and says what the LLM's tokens have come to cost."""

    def __init__(self) -> None:
        self._pair: Hashable = None
        self._seen: dict[int, deque[float]] = {}  # log x, by bucket of the load

    def set_pair(self, pair: Hashable) -> None:
        """Says which workers are there now, and forgets all if they are not those of before."""
        if pair != self._pair:
            self._pair = pair
            self._seen.clear()

    def observe(self, load: float, usage: Usage) -> None:
        """Takes in what a routed answer took that came to its end undisturbed, at a mean load."""
        slm_us, llm_us = usage.slm_time_us * usage.num_llm_tokens, usage.llm_time_us * usage.num_slm_tokens
        if slm_us and llm_us:  # else one of the two was not needed, and x is unknown
            seen = self._seen.setdefault(bucket_of(load), deque(maxlen=_NUM_ANSWERS))
            seen.append(math.log(llm_us / slm_us))

    def price(self, load: int) -> float:
        """What a token of the LLM costs an answer that makes the load so large, over what it costs one alone."""
        alone = self._seen.get(0, ())
        if len(alone) < MIN_ANSWERS:
            return 1.0
        # Buckets are powers of two.
        known = [(0, 0.0)]
        for bucket, seen in sorted(self._seen.items()):
            if bucket and len(seen) >= MIN_ANSWERS:
                known.append((bucket, shift(seen, alone).value))
        price = math.exp(_interpolated(known, math.log2(max(load, 1))))
        return min(max(price, MIN_PRICE), MAX_PRICE)


def _interpolated(points: list[tuple[int, float]], at: float) -> float:
    """The piecewise linear function through points, sorted, whose first is at most `at`; level behind the last."""
    for (left, low), (right, high) in pairwise(points):
        if at < right:
            return low + (at - left) / (right - left) * (high - low)
    return points[-1][1]
