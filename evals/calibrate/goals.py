"""What a user may want of a policy, and the value of its parameter that gives it.

A goal looks at samples of answers to the calibration questions, value by value, and states what fresh questions will
show. It does not know where the samples come from.

An LLM share and a speed-up go one way with the parameter: its values are halved until two neighbours are left. A
statement is a predictive interval: it holds the chance of the fresh questions as well as that of the calibration
questions. A bound on the loss is in `loss`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np

from evals.calibrate.knobs import Knob
from evals.calibrate.outcomes import Sample
from evals.figures.intervals import Interval, predicted_ratio, ratio
from rstitch.errors import RstitchError, invalid

# The calibration questions answered with a value of the parameter; None: by the LLM alone.
Answered = Callable[[float | None], Awaitable[Sample]]


@dataclass(frozen=True, slots=True)
class Found:
    """A value of the parameter and what it promises.

    Attributes:
        stated: the goal's figure, and where it will be on so many fresh questions.
        bound: of a loss, what it is shown to be below.
    """

    value: float
    stated: Interval
    num_fresh: int
    bound: float | None = None


class Goal(ABC):
    """Something that is wanted of a policy, with a figure that says how much of it there is."""

    name: str
    needs_answers = False
    needs_llm_only = True

    def __init__(self, target: float) -> None:
        self.target = target

    def check(self, num_questions: int) -> None:  # noqa: B027 - most can be had of any number
        """Raises: RstitchError (INVALID_ARGUMENT) if so few questions to calibrate on cannot show it."""

    @abstractmethod
    async def find(self, knob: Knob, answered: Answered, num_fresh: int) -> Found:
        """The value that gives it. Raises: RstitchError (INVALID_ARGUMENT) that says what can be reached."""

    @abstractmethod
    def figure(self, routed: Sample, llm_only: Sample | None) -> float:
        """What a sample shows of it."""

    @abstractmethod
    def text(self, figure: float) -> str:
        """A figure for people."""

    def statement(self, found: Found) -> str:
        where = f"between {self.text(found.stated.low)} and {self.text(found.stated.high)}"
        return f"on {found.num_fresh} fresh questions the {self.name} will be {where} (95%)"


class _Monotone(Goal):
    """A ratio of sums that falls as the parameter grows."""

    flag: str

    @abstractmethod
    def _parts(self, routed: Sample, llm_only: Sample | None) -> tuple[np.ndarray, np.ndarray]:
        """Numerators and denominators, [n] each."""

    @abstractmethod
    def _choose(self, over: tuple[float, float], under: tuple[float, float]) -> float:
        """Of two neighbouring values with their ratios, one at or above what is wanted and one below."""

    def _shown(self, found: float) -> float:
        """The goal's figure for a ratio, and the ratio for a figure."""
        return found

    def figure(self, routed: Sample, llm_only: Sample | None) -> float:
        return self._shown(ratio(*self._parts(routed, llm_only)))

    async def find(self, knob: Knob, answered: Answered, num_fresh: int) -> Found:
        """By halving: about log2 of the number of values are answered."""
        llm_only = await answered(None) if self.needs_llm_only else None
        ratios: dict[int, float] = {}

        async def at(index: int) -> float:
            if index not in ratios:
                ratios[index] = ratio(*self._parts(await answered(knob.values[index]), llm_only))
            return ratios[index]

        low, high, wanted = 0, len(knob.values) - 1, self._shown(self.target)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if await at(middle) >= wanted else (low, middle)
        if not await at(high) <= wanted <= await at(low):
            raise self._unreachable(knob, await at(0), await at(len(knob.values) - 1))
        value = self._choose((knob.values[low], await at(low)), (knob.values[high], await at(high)))
        predicted = predicted_ratio(*self._parts(await answered(value), llm_only), num_fresh)
        low_figure, high_figure = sorted(self._shown(end) for end in (predicted.low, predicted.high))
        return Found(value, Interval(self._shown(predicted.value), low_figure, high_figure), num_fresh)

    def _unreachable(self, knob: Knob, most: float, least: float) -> RstitchError:
        reach = sorted(map(self._shown, (most, least)))
        return invalid(
            self.flag,
            f"{self.text(self.target)} is not to be had with {knob.parameter} in [{knob.values[0]:g}, "
            f"{knob.values[-1]:g}]: the {self.name} goes from {self.text(reach[0])} to {self.text(reach[1])}.",
            f"Ask for {self.text(reach[0])} to {self.text(reach[1])}.",
            reason="UNREACHABLE",
        )


class ShareGoal(_Monotone):
    """So much of the tokens by the LLM; the nearest value is taken."""

    name, flag = "LLM share", "--llm-share"
    needs_llm_only = False

    def __init__(self, target: float) -> None:
        if not 0 < target < 1:
            raise invalid(self.flag, f"{target} is no share.", "Use a number between 0 and 1, such as 0.15.")
        super().__init__(target)

    def text(self, figure: float) -> str:
        return f"{figure:.1%}"

    def _parts(self, routed: Sample, llm_only: Sample | None) -> tuple[np.ndarray, np.ndarray]:
        return routed.llm_tokens, routed.tokens

    def _choose(self, over: tuple[float, float], under: tuple[float, float]) -> float:
        return min(over, under, key=lambda pair: abs(pair[1] - self.target))[0]


class LatencyGoal(_Monotone):
    """So many times the speed of the LLM alone; of the values that give it the one with most of the LLM."""

    name, flag = "speed-up", "--latency"

    def __init__(self, target: float) -> None:
        if not 1 < target < 1000:
            raise invalid(self.flag, f"{target:g} is no speed-up.", "Use a number over 1, such as 2x.")
        super().__init__(target)

    def text(self, figure: float) -> str:
        return f"{figure:.2f}x"

    def _parts(self, routed: Sample, llm_only: Sample | None) -> tuple[np.ndarray, np.ndarray]:
        assert llm_only is not None
        return routed.latency_ms, llm_only.latency_ms

    def _choose(self, over: tuple[float, float], under: tuple[float, float]) -> float:
        return over[0] if over[1] <= self._shown(self.target) else under[0]

    def _shown(self, found: float) -> float:
        return 1 / max(found, 1e-9)
