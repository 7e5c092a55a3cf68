"""How many dev questions it takes to promise a loss, and which price keeps a target on dev. It asks nobody.

A loss is promised by the score test for paired proportions (Tango 1998), one-sided, at 95%, and prices are tested from
the safest on until one fails (fixed sequence, as `evals.calibrate.loss` does): the chance of choosing one that is not
safe stays 5%. A speed-up is promised by the lower bound of its paired bootstrap, in the same way. Where one head was
chosen among several on the same questions, each of them is tested at 95% by Bonferroni (`frontier.level_for`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evals.figures.intervals import questions_for, smallest_provable_loss, upper_loss
from rstitch.errors import invalid
from training.head.frontier import Point, level_for

_MOST_QUESTIONS = 10_000_000


@dataclass(frozen=True, slots=True)
class Choice:
    """The price to serve a head at.

    Attributes:
        point: on dev; where no price keeps the target, the one that comes nearest to it.
        keeps: whether it keeps the target, as shown on dev.
        statement: in words for people: what is promised, or that nothing is and why.
        num_heads: heads that were looked at on these questions, for each of which bounds hold.
        is_promise: whether there was a target, and it is kept.
    """

    point: Point
    keeps: bool
    statement: str
    num_heads: int = 1
    is_promise: bool = False


def questions_needed(loss: float, helped: float, num_heads: int = 1) -> int:
    """How many questions it takes to show a loss so small of a head that costs nothing: it harms as many as it helps.

    Args:
        loss: above 0.
        helped: share of the questions that it gets right and the LLM alone does not.
        num_heads: heads of which it will be one, looked at on the same questions.
    """
    level = level_for(num_heads)

    def shows(n: int) -> bool:
        changed = round(helped * n)
        return upper_loss(changed, changed, n, level) <= loss

    low, high = 1, questions_for(loss, level)
    while not shows(high) and high < _MOST_QUESTIONS:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if shows(middle) else (middle, high)
    return high


def check_promise(loss: float, num_dev: int, helped: float, num_heads: int = 1, *, is_trial: bool = False) -> str:
    """What is to be said of a promise before any training; "" if so many dev questions are enough for it.

    Args:
        helped: as in `questions_needed`; of the SLM alone, which helps more than a head does.
        num_heads: heads that will be looked at on dev.
        is_trial: the run is to be seen, not its promise: what would be refused for too few questions is said.
    Raises: RstitchError (INVALID_ARGUMENT) if no head at all could keep it with so few.
    """
    if not 0 < loss < 1:
        what = f"no number of questions shows a loss of at most {loss:.1%}."
        raise invalid("--target-loss", what, "Give a share above 0 and below 1, such as 1% or 0.01.")
    level, sure = level_for(num_heads), _sure(num_heads)
    needed, smallest = questions_needed(loss, helped, num_heads), smallest_provable_loss(num_dev, level)
    changed = round(helped * num_dev)
    likely = upper_loss(changed, changed, num_dev, level)
    ways = "more data, another --split, a higher --num-dev"
    remedy = f"Give {needed} dev questions ({ways}), or allow --target-loss {_allowed(likely)}%."
    if smallest > loss:
        least = questions_for(loss, level)
        more = f", and {needed} if answers change as between SLM and LLM" if needed != least else ""
        what = (
            f"{num_dev} dev questions can show no loss below {smallest:.1%} ({sure}), even if no answer gets worse. "
            f"{loss:.1%} takes {least}{more}."
        )
        if is_trial:
            return f"nothing will be promised: {what} {remedy}"
        raise invalid("--target-loss", what, remedy, reason="UNREACHABLE")
    if needed <= num_dev:
        return ""
    return (
        f"{num_dev} dev questions may be too few to show a loss below {loss:.1%} ({sure}): the SLM gets {helped:.1%} "
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
        num_heads: heads that were looked at on these questions before this one was chosen: what is promised is shown
            for each of them (Bonferroni).
    """
    learned = sorted((point for point in points if point.kind == "learned"), key=lambda point: point.value or 1.0)
    assert learned, "a frontier of a head has points of it"
    if loss is not None:
        return _by_loss(learned, loss, num_heads)
    if speed_up is not None:
        return _by_speed(learned[::-1], speed_up, num_heads)
    best = max(learned, key=lambda point: point.figures.reward(price_ms))
    return Choice(best, True, f"Nothing was to be promised. {_on_dev(best)}", num_heads)


def _by_loss(learned: Sequence[Point], loss: float, num_heads: int) -> Choice:
    bounds = [point.loss_bound(num_heads) for point in learned]
    kept = _passed([bound <= loss for bound in bounds])
    if kept:
        best, bound = learned[kept - 1], bounds[kept - 1]
        shown = f"the loss against the LLM alone is below {loss:.1%} (shown at {_sure(num_heads)}: at most {bound:.1%})"
        return Choice(best, True, f"At price {best.value:g} {shown}. {_on_dev(best)}", num_heads, is_promise=True)
    first, bound = learned[0], bounds[0]
    least = smallest_provable_loss(first.figures.n, level_for(num_heads))
    return Choice(
        first, False,
        f"No price is shown to keep the loss below {loss:.1%}: of {_values(learned)} the safest is tested first, and "
        f"at {first.value:g} it may be {bound:.1%} ({_sure(num_heads)}; less than {least:.1%} cannot be shown with so "
        f"many), so that the testing ended there. {_on_dev(first)} "
        f"Allow {_allowed(bound)}%, give more questions, or serve llm_only.",
        num_heads,
    )  # fmt: skip


def _by_speed(learned: Sequence[Point], speed_up: float, num_heads: int) -> Choice:
    bounds, sure = [point.speed_up_bound(num_heads) for point in learned], _sure(num_heads)
    kept = _passed([bound >= speed_up for bound in bounds])
    if kept:
        best, bound = learned[kept - 1], bounds[kept - 1]
        shown = f"answers are {speed_up:g}x as fast as the LLM alone's ({sure}: at least {bound:.2f}x, modelled)"
        return Choice(best, True, f"At price {best.value:g} {shown}. {_on_dev(best)}", num_heads, is_promise=True)
    first, bound = learned[0], bounds[0]
    return Choice(
        first, False,
        f"No price is shown to make answers {speed_up:g}x as fast as the LLM alone's: of {_values(learned)} the "
        f"highest is tested first, and at {first.value:g} they may be only {bound:.2f}x as fast ({sure}, modelled), so "
        f"that the testing ended there. {_on_dev(first)} "
        f"Ask for {math.floor(100 * bound) / 100:.2f}x, or train with a higher price.",
        num_heads,
    )  # fmt: skip


def _sure(num_heads: int) -> str:
    return "95%" if num_heads == 1 else f"95% for each of {num_heads} looks at dev"


def _allowed(bound: float) -> str:
    """A loss in % that is not below the bound, in few digits."""
    return f"{math.ceil(round(1000 * bound, 6)) / 10:g}"


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
