"""A bound on the loss of accuracy against the LLM alone.

Values are tested from the safest on, each at 5%, until one cannot be shown to be safe; the last that was is taken. In
that order (fixed sequence, as in Learn then Test, Angelopoulos et al. 2021) the chance of taking any value that is not
safe stays 5%.
"""

from __future__ import annotations

from evals.calibrate.goals import Answered, Found, Goal
from evals.calibrate.knobs import Knob
from evals.calibrate.outcomes import Sample
from evals.figures.intervals import predicted_loss, questions_for, smallest_provable_loss, upper_loss
from rstitch.errors import invalid


class LossGoal(Goal):
    """As little of the LLM as can be, with a loss of accuracy against it that is shown to be below a bound."""

    name, flag = "loss of accuracy", "--max-loss"
    needs_answers = True

    def __init__(self, target: float) -> None:
        if not 0 < target < 1:
            raise invalid(self.flag, f"{target} is no loss.", "Use a share between 0 and 1, such as 1% or 0.01.")
        super().__init__(target)

    def check(self, num_questions: int) -> None:
        smallest = smallest_provable_loss(num_questions)
        if smallest > self.target:
            raise invalid(
                self.flag,
                f"with {num_questions} calibration questions no loss below {smallest:.1%} can be shown (95%), even if "
                "not one answer gets worse.",
                f"Give at least {2 * questions_for(self.target)} questions, half of them to check with; or allow more.",
                reason="UNREACHABLE",
            )

    async def find(self, knob: Knob, answered: Answered, num_fresh: int) -> Found:
        """Tests from the safest value on, until one fails."""
        llm_only = await answered(None)
        n = len(llm_only.tokens)
        self.check(n)
        found: Found | None = None
        bounds: list[float] = []
        for value in knob.coarse:
            harmed, helped = changed(await answered(value), llm_only)
            bounds.append(upper_loss(harmed, helped, n))
            if bounds[-1] > self.target:
                break
            found = Found(value, predicted_loss(harmed, helped, n, num_fresh), num_fresh, bounds[-1])
        if found is None:
            raise invalid(
                self.flag,
                f"already with {knob.parameter} {knob.coarse[0]:g} the loss may be {bounds[0]:.1%} (95%, n = {n}).",
                f"Allow {bounds[0]:.1%} or more, give more questions, or use llm_only.",
                reason="UNREACHABLE",
            )
        return found

    def figure(self, routed: Sample, llm_only: Sample | None) -> float:
        assert llm_only is not None
        return float(llm_only.correct.mean() - routed.correct.mean())

    def text(self, figure: float) -> str:
        return f"{figure:+.1%}"

    def statement(self, found: Found) -> str:
        shown = f"the loss is below {self.target:.1%} (shown at 95%: at most {found.bound:.1%})"
        return f"{shown}; {super().statement(found)}"


def changed(routed: Sample, llm_only: Sample) -> tuple[int, int]:
    """Counts the questions that routing harmed and those that it helped."""
    harmed = int((llm_only.correct & ~routed.correct).sum())
    return harmed, int((routed.correct & ~llm_only.correct).sum())
