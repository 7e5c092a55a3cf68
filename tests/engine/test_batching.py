"""Laws of the rule that holds steps back for a fuller batch."""

from __future__ import annotations

import random

import pytest

from model_worker.engine.bookkeeping.batching import Arrivals, BatchingRule, Load, best_wait_s, break_even_s
from model_worker.engine.bookkeeping.cost_model import CostModel

MS = 0.001
# A step of 20 ms and half a percent of that for each further row.
COSTS = CostModel({1: 20_000, 65: 26_400}, {2: 20_000}, {2: 0})


def load(num_rows: int) -> Load:
    return Load(num_rows, num_rows, 0)


def regular(gap_s: float, num_away: int) -> tuple[Arrivals, float]:
    """Sessions that came back at equal distances, `num_away` that are away; and the time of the last arrival."""
    arrivals, now = Arrivals(), 0.0
    for index in range(40):
        arrivals.left(f"s{index}", now - 10 * gap_s)
        arrivals.came(f"s{index}", now)
        now += gap_s
    for index in range(num_away):
        arrivals.left(f"away{index}", now - gap_s)
    return arrivals, now - gap_s


def test_with_one_session_no_step_waits() -> None:
    """It cannot be here and away at once."""
    for size in (0, 8):
        rule, arrivals, now = BatchingRule(COSTS, 1.0, size), Arrivals(), 0.0
        for _ in range(50):
            now += 0.003
            arrivals.came("s", now)
            assert rule.delay(now, load(1), arrivals) == 0
            assert rule.started(now) == 0
            now += 0.02
            arrivals.left("s", now)


def test_a_step_waits_for_a_row_that_comes_soon_and_not_for_one_that_comes_late() -> None:
    break_even = break_even_s(COSTS, load(1))
    assert break_even == pytest.approx(20 * MS / 2 - 0.1 * MS)
    for gap, waits in ((0.5 * break_even, True), (1.1 * break_even, False)):
        arrivals, now = regular(gap, num_away=3)
        assert (BatchingRule(COSTS, 1.0).delay(now, load(1), arrivals) > 0) is waits


def test_a_fuller_batch_has_less_patience() -> None:
    break_evens = [break_even_s(COSTS, load(rows)) for rows in range(1, 65)]
    assert break_evens == sorted(break_evens, reverse=True)
    arrivals, now = regular(4 * MS, num_away=9)
    assert BatchingRule(COSTS, 1.0).delay(now, load(2), arrivals) > 0
    assert BatchingRule(COSTS, 1.0).delay(now, load(8), arrivals) == 0


def test_nobody_is_waited_for_who_does_not_come() -> None:
    arrivals, now = regular(MS, num_away=1)
    rule = BatchingRule(COSTS, 1.0)
    assert rule.delay(now, load(1), arrivals) > 0
    arrivals.forget("away0")
    assert rule.delay(now, load(1), arrivals) == 0
    overdue, _ = regular(MS, num_away=1)
    assert BatchingRule(COSTS, 1.0, size=9).delay(now + 1, load(1), overdue) == 0


def test_sessions_that_come_back_at_once_are_not_waited_for_one_by_one() -> None:
    """They left the other model's step together: after them comes nobody until its next step ends."""
    arrivals, now = Arrivals(), 0.0
    for _ in range(8):
        now += 30 * MS
        for index in range(4):
            arrivals.left(f"s{index}", now - 30 * MS)
            arrivals.came(f"s{index}", now)
    arrivals.left("away", now)
    rule = BatchingRule(COSTS, 1.0)
    assert rule.delay(now, load(1), arrivals) == 0
    assert rule.delay(now + 25 * MS, load(2), arrivals) == pytest.approx(5 * MS)


@pytest.mark.parametrize("size", [0, 4])
def test_no_step_is_held_back_longer_than_the_bound(size: int) -> None:
    arrivals, now = regular(6 * MS, num_away=20)
    rule = BatchingRule(COSTS, 7 * MS, size)
    begin = now
    rows = 1
    while (delay := rule.delay(now, load(rows), arrivals)) > 0:
        now += min(delay, 4 * MS)
        if delay > 4 * MS:
            arrivals.came(f"away{rows}", now)
            rows += 1
        assert now - begin <= 7 * MS + 1e-9
    assert rule.started(now) == pytest.approx(now - begin)


def test_a_wait_in_vain_ends_and_the_next_step_starts_the_count_anew() -> None:
    arrivals, now = regular(2 * MS, num_away=3)
    rule = BatchingRule(COSTS, 1.0)
    delay = rule.delay(now, load(1), arrivals)
    assert 0 < delay <= break_even_s(COSTS, load(1))
    assert rule.delay(now + delay, load(1), arrivals) == 0
    assert rule.started(now + delay) == pytest.approx(delay)
    assert rule.started(now + delay) == 0


@pytest.mark.parametrize("seed", range(20))
def test_the_best_wait_is_best_and_gains(seed: int) -> None:
    rng = random.Random(seed)
    waits = sorted(rng.expovariate(1 / (8 * MS)) for _ in range(rng.randrange(1, 32)))
    num_rows, break_even = rng.randrange(1, 6), rng.uniform(0, 12 * MS)

    def gain(horizon: float) -> float:
        caught = [(num_rows + 1) * (break_even - wait) for wait in waits if wait <= horizon]
        return sum(caught) - (len(waits) - len(caught)) * num_rows * horizon

    best = best_wait_s(waits, num_rows, break_even)
    assert best <= break_even
    assert gain(best) >= max(gain(wait) for wait in waits if wait < break_even) - 1e-12 if best else True
    assert gain(best) > 0 if best else all(gain(wait) <= 1e-12 for wait in waits if wait < break_even)


def test_without_costs_only_a_size_holds_back() -> None:
    arrivals, now = regular(MS, num_away=3)
    assert BatchingRule(None, 1.0).delay(now, load(1), arrivals) == 0
    assert BatchingRule(None, 1.0, size=2).delay(now, load(1), arrivals) > 0
    assert BatchingRule(None, 1.0, size=2).delay(now, load(2), arrivals) == 0
