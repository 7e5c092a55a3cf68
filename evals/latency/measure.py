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
        most_s: no round is begun that would end later, but for one: of large models on a CPU a round takes minutes.
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
    began, took_s = monotonic(), 0.0
    for number in range(-WARM_UP, plan.repeats):
        round_began = monotonic()
        # Of a round that warms up, the one that counts is still to come.
        if round_began - began + took_s * (2 if number < 0 else 1) > plan.most_s and number not in (-WARM_UP, 0):
            continue
        rng.shuffle(cells)
        for role, cell in cells:
            call = await probers[role].call(*cell)
            if number >= 0:
                made.calls[role].append(call)
            tick()
        if asker is not None and number >= 0:
            for questions, answers in ((plan.seen, made.seen), (plan.held_out, made.held_out)):
                for question in questions[number :: plan.repeats]:
                    answers += await asker.ask(question, tick)
        made.num_rounds += number >= 0
        took_s = monotonic() - round_began
    return made
