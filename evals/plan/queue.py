"""A worker as a queue whose speed depends on how many rows its step has: closed form, no simulation.

All rows of a step get one token, so n rows share n / t(n) tokens a second evenly: a processor-sharing queue whose speed
depends on n. With Poisson arrivals p(n) is proportional to the product of (arriving tokens a second) t(k) / k over k =
1..n, whatever the lengths are, and also where answers go back and forth between two such queues (Baskett, Chandy, Muntz
and Palacios, 1975). Where no more than `max_rows` have room, others wait in line; their wait is corrected by
(1 + cv^2) / 2, which makes M/D/1 of one row of equal runs, and M/M/c of steps that do not grow.

Tokens that are only computed (prompts, catch-up) ride in steps that run anyway, spread evenly; where none runs they
take steps of their own, which keep the worker busy and nobody waiting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evals.plan.load import Demand
from evals.plan.steps import Steps

_EXACT = 1e-4  # relative, of the length of a step
_NEVER = 30.0  # states whose chance is so far below the likeliest's, as a logarithm, do not count
_PIECE = 32  # tokens of such a step: a router has as many computed at a time
_LONGEST = 1e4  # times a step of decode rows alone: beyond it there is none that keeps up with the other tokens


@dataclass(frozen=True, slots=True)
class Station:
    """One worker and what answers ask of it.

    Attributes:
        max_rows: that decode at once.
        context: tokens before a row, on average.
        run_cv: of the lengths of runs, the standard deviation over the mean.
    """

    steps: Steps
    demand: Demand
    max_rows: int
    context: float
    run_cv: float = 1.0

    def step_s(self, rows: int, others_s: float) -> float:
        """Seconds of a step in which so many other tokens a second ride; infinite if they are too many."""
        low = high = alone = self.steps.step_s(rows, 0, self.context)
        while self.steps.step_s(rows, others_s * high, self.context) > high:
            low, high = high, 2 * high
            if high > _LONGEST * alone:
                return math.inf
        while high - low > _EXACT * high:
            middle = (low + high) / 2
            if self.steps.step_s(rows, others_s * middle, self.context) > middle:
                low = middle
            else:
                high = middle
        return high

    @property
    def saturation(self) -> float:
        """Answers a second that one worker can do at most: all its rows decode, and all other tokens ride with them."""
        if not self.demand.steps:
            return math.inf
        beside = self.max_rows * self.demand.others / self.demand.steps
        return self.max_rows / (self.demand.steps * self.steps.step_s(self.max_rows, beside, self.context))

    def at(self, rate: float) -> Loaded:
        """The worker when so many answers a second ask for it: more than 0 and less than the saturation."""
        tokens_s = rate * self.demand.steps
        if not tokens_s:
            return IDLE
        if rate >= self.saturation:
            return OVERLOADED
        times, logs, most = [], [0.0], 0.0
        for rows in range(1, self.max_rows + 1):
            times.append(self.step_s(rows, rate * self.demand.others))
            if times[-1] == math.inf:
                return OVERLOADED
            logs.append(logs[-1] + math.log(tokens_s * times[-1] / rows))
            most = max(most, logs[-1])
            if logs[-1] < most - _NEVER:
                break
        # Each more in line is so many times as likely as one less.
        tail = tokens_s * times[-1] / len(times)
        if tail >= 1:
            return OVERLOADED
        weights = [math.exp(log - most) for log in logs]
        in_line = weights[-1] * tail / (1 - tail)
        total = sum(weights) + in_line
        chances = [weight / total for weight in weights]
        return self._loaded(rate, times, chances, in_line / total, tail)

    def _loaded(
        self, rate: float, times: Sequence[float], chances: Sequence[float], in_line: float, tail: float
    ) -> Loaded:
        served = [*chances[1:-1], chances[-1] + in_line]  # chance of 1.. rows in a step
        rows = sum(count * chance for count, chance in enumerate(served, 1))
        speeds = [count * chance / step_s for count, (chance, step_s) in enumerate(zip(served, times, strict=True), 1)]
        tokens_s = rate * self.demand.steps
        token_s = rows / tokens_s  # Little's law
        piece_s = self.steps.step_s(1, _PIECE - 1, self.context)
        alone = chances[0] * min(1.0, rate * self.demand.others / _PIECE * piece_s)
        square = sum(speed * step_s**2 for speed, step_s in zip(speeds, times, strict=True)) / sum(speeds)
        waiting = in_line / (1 - tail) * (1 + self.run_cv**2) / 2
        return Loaded(
            load=rate / self.saturation,
            busy=1 - chances[0],
            alone=alone,
            rows=rows,
            waiting=waiting,
            token_s=token_s,
            token_sd_s=math.sqrt(max(0.0, square - token_s**2)),
            # Who comes during a step that has room for more waits for its end, half of it on average.
            begin_s=sum(chance * step_s for chance, step_s in zip(chances[1:-1], times, strict=False)) / 2,
            wait_s=waiting / (rate * self.demand.runs) if waiting else 0.0,
        )


@dataclass(frozen=True, slots=True)
class Loaded:
    """A worker under a load.

    Attributes:
        load: the rate over that at which it saturates.
        busy: the share of time in which it has a row.
        alone: the share in which it has none and computes other tokens.
        rows, waiting: on average, in its steps and in line.
        token_s, token_sd_s: seconds of a token, and their standard deviation over tokens.
        begin_s: that a run waits for the end of the step that it comes in.
        wait_s: that it waits in line before, where no row is free.
    """

    load: float
    busy: float
    alone: float
    rows: float
    waiting: float
    token_s: float
    token_sd_s: float
    begin_s: float
    wait_s: float

    @property
    def is_overloaded(self) -> bool:
        """Tells whether the line grows without end."""
        return self.load >= 1


IDLE = Loaded(0, 0, 0, 0, 0, 0, 0, 0, 0)
OVERLOADED = Loaded(math.inf, 1, 0, math.inf, math.inf, math.inf, math.inf, math.inf, math.inf)
