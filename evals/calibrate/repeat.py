"""Does a calibration keep what it states? Many of them, on subsets of questions that were all answered once.

Each repeat draws its own questions to calibrate on and others, fresh to it, to check with; nothing is asked anew. What
varies from repeat to repeat is which question is drawn for which, and how much is asked for; the pool is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evals.calibrate.calibration import Calibrated, calibrate
from evals.calibrate.goals import Goal
from evals.calibrate.knobs import Knob
from evals.calibrate.outcomes import Sample
from evals.figures.report import Row
from evals.figures.statistics import wilson
from rstitch.errors import RstitchError


@dataclass(frozen=True, slots=True)
class Pool:
    """All questions answered with all values that may be looked at, and by the LLM alone (None)."""

    knob: Knob
    samples: dict[float | None, Sample]

    @property
    def size(self) -> int:
        return len(self.samples[None].tokens)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What repeats ask for: a goal for each, drawn or always the same."""

    name: str
    draw: Callable[[np.random.Generator], Goal]

    @classmethod
    def always(cls, goal: Goal) -> Wanted:
        return cls(f"{goal.name} {goal.text(goal.target)}", lambda rng: goal)


async def repeat(pool: Pool, wanted: Wanted, repeats: int, num_calibrated: int, num_fresh: int, seed: int) -> Row:
    """Calibrates so many times; a row of figures over all. A repeat's questions to check with are fresh to it."""
    assert num_calibrated + num_fresh <= pool.size, "the pool is too small to draw both"
    rng = np.random.default_rng(seed)
    knob = replace(pool.knob, values=pool.knob.coarse)
    made: list[Calibrated | None] = []
    for _ in range(repeats):
        goal = wanted.draw(rng)
        drawn = rng.permutation(pool.size)
        parts = {False: drawn[:num_calibrated], True: drawn[num_calibrated : num_calibrated + num_fresh]}

        async def answers(value: float | None, fresh: bool, parts: dict[bool, Any] = parts) -> Sample:
            return pool.samples[value].at(parts[fresh])

        try:
            made.append(await calibrate(goal, knob, answers, num_fresh, has_answers=True))
        except RstitchError as error:
            if error.reason != "UNREACHABLE":
                raise
            made.append(None)
    return _row(wanted.name, made)


def _row(goal: str, made: Sequence[Calibrated | None]) -> Row:
    """Figures of calibrations for one goal; None is one that could not be reached."""
    reached = [one for one in made if one is not None]
    num_landed = sum(one.landed for one in reached)
    low, high = wilson(num_landed, len(made))
    widths = [one.found.stated.high - one.found.stated.low for one in reached]
    errors = [abs(one.checked - one.found.stated.value) for one in reached]
    text = reached[0].goal.text if reached else str
    return {
        "goal": goal,
        "repeats": len(made),
        "reached": len(reached),
        "landed": num_landed,
        "landed_low": low,
        "landed_high": high,
        "width": text(float(np.median(widths))) if reached else "",
        "error": text(float(np.median(errors))) if reached else "",
        "values": sorted({one.found.value for one in reached}),
    }
