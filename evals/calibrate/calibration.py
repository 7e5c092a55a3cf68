"""One calibration: find a value on some questions, check its statement on others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from evals.calibrate.goals import Found, Goal
from evals.calibrate.knobs import Knob
from evals.calibrate.loss import changed
from evals.calibrate.outcomes import Sample
from evals.figures.intervals import LEVEL, Interval, predicted_loss, predicted_ratio
from rstitch.client.types import Policy

# Questions answered with a value of the parameter, or by the LLM alone; `fresh` are those to check with.
Answers = Callable[[float | None, bool], Awaitable[Sample]]


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A value, what it promises, and what the check showed.

    Attributes:
        checked: the goal's figure on the questions to check with.
        beside: other figures on all questions, by name, each with the interval of as many fresh ones.
    """

    goal: Goal
    knob: Knob
    found: Found
    num_calibrated: int
    checked: float
    beside: dict[str, Interval]

    @property
    def landed(self) -> bool:
        return self.found.stated.holds(self.checked)

    @property
    def policy(self) -> Policy:
        return self.knob.policy(self.found.value)

    def lines(self) -> list[str]:
        """For people. The first line says what is promised and what was seen; lists of profiles show it alone."""
        text, name = self.goal.text, self.goal.name
        verdict = "within" if self.landed else "OUTSIDE of what was stated"
        return [
            f"{self.goal.statement(self.found)}; checked: {text(self.checked)}, {verdict}",
            f"calibrated: {name} {text(self.found.stated.value)} on {self.num_calibrated} questions",
            f"checked: {name} {text(self.checked)} on {self.found.num_fresh} other questions: {verdict}",
            *(f"{other}: {_text(other, i.value)} [{_text(other, i.low)}, {_text(other, i.high)}]"
              for other, i in self.beside.items()),
        ]  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        stated = self.found.stated
        return {
            "goal": self.goal.name,
            "target": self.goal.target,
            self.knob.parameter: self.found.value,
            "calibrated": stated.value,
            "low": stated.low,
            "high": stated.high,
            "level": LEVEL,
            "bound": self.found.bound,
            "num_calibrated": self.num_calibrated,
            "num_checked": self.found.num_fresh,
            "checked": self.checked,
            "landed": self.landed,
            "beside": {name: [i.value, i.low, i.high] for name, i in self.beside.items()},
        }


async def calibrate(goal: Goal, knob: Knob, answers: Answers, num_fresh: int, has_answers: bool) -> Calibrated:
    """Finds, then checks. Raises: RstitchError if the goal cannot be reached.

    Args:
        has_answers: whether it is known what is right, for the figures beside the goal's own.
    """
    found = await goal.find(knob, lambda value: answers(value, False), num_fresh)
    routed = await answers(found.value, False)
    fresh = await answers(found.value, True)
    fresh_llm = await answers(None, True) if goal.needs_llm_only else None
    beside = {}
    if goal.name != "LLM share":
        beside["LLM share"] = predicted_ratio(routed.llm_tokens, routed.tokens, num_fresh)
    if goal.needs_llm_only:
        llm_only = await answers(None, False)
        if goal.name != "speed-up":
            inverse = predicted_ratio(routed.latency_ms, llm_only.latency_ms, num_fresh)
            beside["speed-up"] = Interval(1 / inverse.value, 1 / inverse.high, 1 / max(inverse.low, 1e-9))
        if has_answers and not goal.needs_answers:
            beside["loss of accuracy"] = predicted_loss(*changed(routed, llm_only), len(routed.tokens), num_fresh)
    return Calibrated(goal, knob, found, len(routed.tokens), goal.figure(fresh, fresh_llm), beside)


def _text(name: str, value: float) -> str:
    return f"{value:.2f}x" if name == "speed-up" else f"{value:.1%}"
