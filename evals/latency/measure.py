"""All that is measured for a latency model, in rounds: calls, answers to fit on, answers to check on, in turn.

The speed of a machine changes from minute to minute; in turn, a slow minute is slow for all of them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic

from evals.latency.answers import POLICIES, Asker, Measured
from evals.latency.profile import Prober, TimedCall

WARM_UP = 2  # rounds that are not counted


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    Attributes:
        inputs, cached: the grid, in tokens.
        repeats: of each cell; as many rounds.
        most_s: no round is begun that would end later, but for one, which then counts: of large models on a CPU a
            round takes minutes.
        seen, held_out: questions to fit on and to check on, each asked by every policy.
    """

    inputs: Sequence[int]
    cached: Sequence[int]
    repeats: int
    seen: Sequence[str] = ()
    held_out: Sequence[str] = ()
    seed: int = 0
    most_s: float = math.inf

    def num_measured(self, probers: Mapping[str, Prober]) -> int:
        """Calls and answers, for a progress bar."""
        cells = sum(len(prober.grid(self.inputs, self.cached)) for prober in probers.values())
        return cells * (self.repeats + WARM_UP) + len(POLICIES) * (len(self.seen) + len(self.held_out))


@dataclass(slots=True)
class Measurement:
    """The calls and answers that were timed, in so many rounds."""

    calls: dict[str, list[TimedCall]] = field(default_factory=dict)
    seen: list[Measured] = field(default_factory=list)
    held_out: list[Measured] = field(default_factory=list)
    num_rounds: int = 0


async def measure(
    probers: Mapping[str, Prober], asker: Asker | None, plan: Plan, tick: Callable[[], None]
) -> Measurement:
    """Every cell of every worker once a round, in an order of its own; the questions spread over the rounds.

    Args:
        probers: by role.
        asker: None: no answers.
    """
    made = Measurement({role: [] for role in probers})
    cells = [(role, cell) for role, prober in probers.items() for cell in prober.grid(plan.inputs, plan.cached)]
    rng = random.Random(plan.seed)
    began, number = monotonic(), -WARM_UP
    while number < plan.repeats:
        round_began = monotonic()
        rng.shuffle(cells)
        timed = []
        for role, cell in cells:
            timed.append((role, await probers[role].call(*cell)))
            tick()
        now = monotonic()
        if number < 0 and now - began + now - round_began > plan.most_s:
            number = 0  # there is no time to warm up: this round counts
        if number >= 0:
            for role, call in timed:
                made.calls[role].append(call)
            if asker is not None:
                for questions, answers in ((plan.seen, made.seen), (plan.held_out, made.held_out)):
                    for question in questions[number :: plan.repeats]:
                        answers += await asker.ask(question, tick)
            made.num_rounds += 1
        number += 1
        now = monotonic()
        if number > 0 and now - began + now - round_began > plan.most_s:
            break
    return made
