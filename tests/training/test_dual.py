"""The price: found for a target on bandits whose optimum is known, kept within bounds, fixed where it is given."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest

from evals.tasks.data import Problem
from rstitch.errors import InvalidArgument
from training.head.dual import Dual, dual_of
from training.head.rollouts.types import Rollout

HARM = (0.005, 0.02, 0.08, 0.3)  # of a token of the SLM at each of an answer's places; the LLM's do none
CALL_MS, BASE_MS = 5.0, 20.0
LLM_MS = BASE_MS + CALL_MS * len(HARM)


def calls(price: float) -> list[float]:
    """The probability of a call at each place, of a policy that is (softly) the best for a price."""
    return [1 / (1 + (CALL_MS * price / harm) ** 4) for harm in HARM]


def accuracy(price: float) -> float:
    return math.prod(1 - harm * (1 - call) for harm, call in zip(HARM, calls(price), strict=True))


def latency(price: float) -> float:
    return BASE_MS + CALL_MS * sum(calls(price))


def step(price: float, rng: random.Random) -> list[list[Rollout]]:
    """Thirty-two groups of eight answers, as a step of training has them."""
    groups, chances = [], calls(price)
    for _ in range(32):
        group = []
        for _ in range(8):
            by_llm = [rng.random() < call for call in chances]
            right = all(llm or rng.random() >= harm for llm, harm in zip(by_llm, HARM, strict=True))
            ms = BASE_MS + CALL_MS * sum(by_llm)
            group.append(Rollout(Problem(0, "", "", ""), "", right, ms, 4, sum(by_llm), ()))
        groups.append(group)
    return groups


def found(dual: Dual, num_steps: int = 250) -> float:
    """The geometric mean of the prices of the second half of a run."""
    rng, price, logs = random.Random(7), dual.begin(), []
    for _ in range(num_steps):
        price = dual.after(price, step(price.value, rng))
        logs.append(math.log(price.value))
    return math.exp(sum(logs[num_steps // 2 :]) / (num_steps - num_steps // 2))


def root(is_below: Sequence[bool], prices: Sequence[float]) -> float:
    return next(price for price, below in zip(prices, is_below, strict=True) if not below)


PRICES = [1e-4 * 1.02**index for index in range(400)]


def test_a_loss_is_met_at_the_price_that_the_optimum_has() -> None:
    price = found(dual_of(None, 0.05, None, 1.0, LLM_MS, 10_000))
    best = root([accuracy(price) >= 0.95 for price in PRICES], PRICES)
    assert math.log(price) == pytest.approx(math.log(best), abs=0.25)
    assert accuracy(price) == pytest.approx(0.95, abs=0.012)


def test_a_speed_is_met_at_the_price_that_the_optimum_has() -> None:
    price = found(dual_of(None, None, 1.3, 1.0, LLM_MS, 10_000))
    best = root([latency(price) >= LLM_MS / 1.3 for price in PRICES], PRICES)
    assert math.log(price) == pytest.approx(math.log(best), abs=0.25)
    assert latency(price) == pytest.approx(LLM_MS / 1.3, rel=0.03)


def test_a_price_that_is_given_stays_and_the_default_takes_a_tenth() -> None:
    rng = random.Random(1)
    given = dual_of(5e-6, None, None, 0.9, 20_000, 100)
    assert given.after(given.begin(), step(5e-6, rng)).value == 5e-6
    default = dual_of(None, None, None, 0.9, 20_000, 100)
    assert default.after(default.begin(), step(1.0, rng)).value == pytest.approx(5e-6)  # the paper's, at 20 s


def test_the_price_stays_within_bounds_whatever_the_target() -> None:
    rng = random.Random(3)
    for dual, bound in (
        (dual_of(None, 0.9, None, 1.0, LLM_MS, 100), 0.9 / LLM_MS),  # a right answer always earns something
        (dual_of(None, None, 10, 1.0, LLM_MS, 100), 0.9 / LLM_MS),
        (Dual("loss", 1e-3, 1e-5, 1.0, wanted=1.5), 1e-5),
    ):
        price = dual.begin()
        for _ in range(40):
            price = dual.after(price, step(price.value, rng))
        assert price.value == pytest.approx(bound)


def test_the_interval_holds_the_truth_and_chance_moves_little() -> None:
    dual = dual_of(None, 0.05, None, 1.0, LLM_MS, 10_000)
    rng, inside = random.Random(5), 0
    for _ in range(100):
        price = dual.begin()
        for _ in range(5):
            price = dual.after(price, step(dual.start, rng))
        low, slack, high = dual.interval(price)
        assert low < slack < high
        inside += low <= accuracy(dual.start) - 0.95 <= high
    assert inside >= 90
    assert dual.interval(dual.begin()) == (-math.inf, 0.0, math.inf)
    unsure = dual_of(None, 0.05, None, 0.9, LLM_MS, 100)  # what is wanted is 0.03 from the truth, or more
    low, _, high = unsure.interval(unsure.after(unsure.begin(), step(dual.start, rng)))
    assert high - low > 3.9 * 0.03
    few = dual.after(dual.begin(), step(dual.start, rng)[:1])  # one question tells next to nothing
    assert abs(math.log(few.value / dual.start)) < 0.01


@pytest.mark.parametrize(
    ("asked", "flag"),
    [((0.0, None, None), "--price"), ((None, 0.95, None), "--target-loss"), ((None, None, 1.0), "--target-latency")],
)
def test_what_cannot_be_is_refused(asked: tuple[float | None, float | None, float | None], flag: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        dual_of(*asked, 0.9, 100.0, 200)
    assert caught.value.field == flag
    assert caught.value.remedy
