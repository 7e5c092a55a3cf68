"""How many dev questions it takes to promise a loss, and which price keeps a target on dev. It asks nobody.

A loss is promised by the score test for paired proportions (Tango 1998), one-sided, at 95%, and prices are tested from
the safest on until one fails (fixed sequence, as `evals.calibrate.loss` does): the chance of choosing one that is not
safe stays 5%. A speed-up is promised by the lower end of its paired bootstrap interval, in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evals.figures.intervals import questions_for, smallest_provable_loss, upper_loss
from rstitch.errors import invalid
from training.head.frontier import Point

_MOST_QUESTIONS = 10_000_000


@dataclass(frozen=True, slots=True)
class Choice:
    """The price to serve a head at.

    Attributes:
        point: on dev; where no price keeps the target, the one that comes nearest to it.
        keeps: whether it keeps the target, as shown on dev.
        statement: in words for people: what is promised, or that nothing is and why.
    """

    point: Point
    keeps: bool
    statement: str


def questions_needed(loss: float, helped: float) -> int:
    """How many questions it takes to show a loss so small of a head that costs nothing: it harms as many as it helps.

    Args:
        loss: above 0.
        helped: share of the questions that it gets right and the LLM alone does not.
    """

    def shows(n: int) -> bool:
        changed = round(helped * n)
        return upper_loss(changed, changed, n) <= loss

    low, high = 1, questions_for(loss)
    while not shows(high) and high < _MOST_QUESTIONS:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if shows(middle) else (middle, high)
    return high


def check_promise(loss: float, num_dev: int, helped: float) -> str:
    """What is to be said of a promise before any training; "" if so many dev questions are enough for it.

    Args:
        helped: as in `questions_needed`; of the SLM alone, which helps more than a head does.
    Raises: RstitchError (INVALID_ARGUMENT) if no head at all could keep it with so few.
    """
    if not 0 < loss < 1:
        what = f"no number of questions shows a loss of at most {loss:.1%}."
        raise invalid("--target-loss", what, "Give a share above 0 and below 1, such as 1% or 0.01.")
    needed, smallest = questions_needed(loss, helped), smallest_provable_loss(num_dev)
    changed = round(helped * num_dev)
    likely = upper_loss(changed, changed, num_dev)
    remedy = f"Give {needed} dev questions (more data, another --split), or allow --target-loss {100 * likely:.2g}%."
    if smallest > loss:
        what = (
            f"{num_dev} dev questions can show no loss below {smallest:.1%} (95%), even if no answer gets worse. "
            f"{loss:.1%} takes {questions_for(loss)}, and {needed} if answers change as between SLM and LLM."
        )
        raise invalid("--target-loss", what, remedy, reason="UNREACHABLE")
    if needed <= num_dev:
        return ""
    return (
        f"{num_dev} dev questions may be too few to show a loss below {loss:.1%} (95%): the SLM gets {helped:.1%} "
        f"right that the LLM gets wrong, and a head that helps and harms so many shows {likely:.1%}. {remedy}"
    )


def choose(
    points: Sequence[Point], *, loss: float | None = None, speed_up: float | None = None, price_ms: float = 0.0,
    num_heads: int = 1,
) -> Choice:  # fmt: skip
    """The price that keeps the target on dev: of a loss the fastest, of a speed-up the most accurate.

    Args:
        points: a frontier; those of the head count.
        loss: of accuracy against the LLM alone; speed_up: over it. Neither: the highest reward.
        price_ms: lambda of that reward.
        num_heads: heads that were looked at on these questions before this one was chosen: a loss is shown for each of
            them (Bonferroni).
    """
    learned = sorted((point for point in points if point.kind == "learned"), key=lambda point: point.value or 1.0)
    assert learned, "a frontier of a head has points of it"
    if loss is not None:
        return _by_loss(learned, loss, num_heads)
    if speed_up is not None:
        return _by_speed(learned[::-1], speed_up)
    best = max(learned, key=lambda point: point.figures.reward(price_ms))
    return Choice(best, True, f"Nothing was to be promised. {_on_dev(best)}")


def _by_loss(learned: Sequence[Point], loss: float, num_heads: int) -> Choice:
    bounds = [point.loss_bound(num_heads) for point in learned]
    kept = _passed([bound <= loss for bound in bounds])
    if kept:
        best, bound = learned[kept - 1], bounds[kept - 1]
        shown = f"the loss against the LLM alone is below {loss:.1%} (shown at 95%: at most {bound:.1%})"
        return Choice(best, True, f"At price {best.value:g} {shown}. {_on_dev(best)}")
    bound, best = min(zip(bounds, learned, strict=True), key=lambda pair: (pair[0], pair[1].figures.latency_ms))
    least = smallest_provable_loss(best.figures.n)
    return Choice(
        best, False,
        f"No price of {_values(learned)} keeps the loss below {loss:.1%}: at {best.value:g} it may be {bound:.1%} "
        f"(95%; less than {least:.1%} cannot be shown with so many). {_on_dev(best)} "
        f"Allow {100 * bound:.2g}%, give more questions, or serve llm_only.",
    )  # fmt: skip


def _by_speed(learned: Sequence[Point], speed_up: float) -> Choice:
    kept = _passed([point.speed_up_low >= speed_up for point in learned])
    if kept:
        best = learned[kept - 1]
        shown = (
            f"answers are {speed_up:g}x as fast as the LLM alone's (95%: at least {best.speed_up_low:.2f}x, modelled)"
        )
        return Choice(best, True, f"At price {best.value:g} {shown}. {_on_dev(best)}")
    best = max(learned, key=lambda point: point.speed_up_low)
    return Choice(
        best, False,
        f"No price of {_values(learned)} makes answers {speed_up:g}x as fast as the LLM alone's (95%, modelled). "
        f"{_on_dev(best)} Ask for {best.speed_up_low:.2f}x, or train with a higher price.",
    )  # fmt: skip


def _passed(safe: Sequence[bool]) -> int:
    """How many pass from the first on, until one does not."""
    return next((number for number, passes in enumerate(safe) if not passes), len(safe))


def _on_dev(point: Point) -> str:
    low, value, high = (100 * share for share in (point.difference_low, point.difference, point.difference_high))
    figures = point.figures
    return (
        f"On dev (n = {figures.n}) price {point.value:g} is {value:+.1f} [{low:+.1f}, {high:+.1f}] points from the LLM "
        f"alone and {point.speed_up:.2f}x [{point.speed_up_low:.2f}, {point.speed_up_high:.2f}] as fast, with "
        f"{figures.llm_share:.1%} of the tokens by the LLM."
    )


def _values(learned: Sequence[Point]) -> str:
    return ", ".join(f"{point.value:g}" for point in learned)
