"""What a step will take: laws of the prediction, and of the measuring that it rests on."""

from __future__ import annotations

import random

import pytest

from model_worker.engine.bookkeeping.cost_model import CostModel
from model_worker.engine.counters import Counters
from model_worker.engine.measure import measure_steps
from model_worker.engine.types import RunRequest
from tests.support.engines import generate, make_engine, run_all

PROMPTS = [[7, 8, 9, 10, 11], list(range(30, 100)), [50]]


def noisy(seed: int) -> CostModel:
    """Points as a busy machine gives them: up and down."""
    rng = random.Random(seed)
    sizes = (1, 2, 4, 8, 16, 64)
    return CostModel(*({size: rng.uniform(500, 2000) for size in sizes} for _ in range(3)))


def test_the_points_are_met_and_between_them_it_is_linear() -> None:
    costs = CostModel({1: 1000, 2: 1100, 4: 1500}, {2: 1200, 10: 2000}, {2: 50, 10: 130})
    assert [costs.step_us(rows) for rows in (1, 2, 3, 4)] == [1000, 1100, 1300, 1500]
    assert costs.step_us(0, 6) == 1600
    assert costs.step_us(2, 6) == 1100 + 90
    assert costs.step_us(7) == 2000  # beyond the last as steep as from the first to it
    assert costs.step_us(0) == 0


@pytest.mark.parametrize("seed", range(5))
def test_more_work_never_costs_less(seed: int) -> None:
    costs = noisy(seed)
    for tokens in (0, 3, 40, 200):
        times = [costs.step_us(rows, tokens) for rows in range(1, 100)]
        assert times == sorted(times)
    for rows in (0, 1, 7, 90):
        times = [costs.step_us(rows, tokens) for tokens in range(1, 100)]
        assert times == sorted(times)


@pytest.mark.parametrize("seed", range(5))
def test_most_tokens_is_the_most_that_fits(seed: int) -> None:
    costs = noisy(seed)
    for rows in (0, 1, 5):
        for bound in (0, 600, 1500, 2500, 10**9):
            most = costs.most_tokens(rows, 3, 50, bound)
            fitting = [0] + [n for n in range(2, 51) if costs.step_us(rows, 3 + n) <= bound]
            one_fits = costs.step_us(rows + 1, 3) <= bound
            assert most == (max(fitting) or int(one_fits))
    assert costs.most_tokens(1, 0, 0, 10**9) == 0


def test_one_point_is_enough() -> None:
    costs = CostModel({1: 1000}, {}, {})
    assert costs.step_us(1) == costs.step_us(64, 512) == costs.step_us(0, 9) == 1000


@pytest.mark.parametrize("limits", [{}, {"num_pages": 4}, {"max_batch_tokens": 3}, {"context_length": 8}])
def test_measuring_leaves_nothing_behind_and_changes_no_token(limits: dict[str, int]) -> None:
    engine, model = make_engine(**limits)
    engine.costs = measure_steps(engine, budget_s=0.2)
    assert engine.costs is not None
    assert engine.costs.step_us(1) > 0
    assert engine.capacity.num_sessions == 0
    assert engine.capacity.num_free_pages == engine.limits.num_pages
    assert engine.counters == Counters()
    engine.check_integrity()
    (result,) = run_all(engine, [RunRequest("s", 0, PROMPTS[0], max_tokens=3)])
    assert result.tokens == generate(model, PROMPTS[0], 3)


@pytest.mark.parametrize(("num_pages", "page_size"), [(2, 1), (3, 1), (1, 3), (1, 2)])
def test_a_cache_too_small_to_measure_in_is_no_error(num_pages: int, page_size: int) -> None:
    engine, _ = make_engine(num_pages=num_pages, page_size=page_size, context_length=num_pages * page_size)
    engine.costs = measure_steps(engine, budget_s=0.01)
    assert engine.capacity.num_free_pages == num_pages


def test_a_short_time_is_enough_to_know_what_riding_tokens_cost() -> None:
    engine, _ = make_engine()
    costs = measure_steps(engine, budget_s=1e-6)
    assert costs is not None
    assert {(cost.num_rows, cost.num_tokens_per_row) for cost in costs.step_costs} == {(1, 1), (8, 1), (1, 64)}
    assert CostModel({1: 100}, {64: 900}, {}).step_us(1, 64) == 900


def test_without_time_nothing_is_measured() -> None:
    engine, _ = make_engine()
    assert measure_steps(engine, budget_s=0) is None


@pytest.mark.parametrize("measured", [False, True])
def test_catch_up_beside_decoding_changes_no_token(measured: bool) -> None:
    engine, model = make_engine(background_us=0, background_stretch=0.5)
    if measured:
        engine.costs = CostModel({1: 1000, 64: 2000}, {2: 1000, 64: 8000}, {1: 100, 64: 7000})
    catch_up = [RunRequest(f"c{i}", 0, prompt) for i, prompt in enumerate(PROMPTS)]
    decode = [RunRequest(f"d{i}", 0, prompt, max_tokens=12) for i, prompt in enumerate(PROMPTS)]
    results = run_all(engine, catch_up + decode)[len(PROMPTS) :]
    again = run_all(engine, [RunRequest(f"c{i}", len(p), [], max_tokens=12) for i, p in enumerate(PROMPTS)])
    for prompt, beside, after in zip(PROMPTS, results, again, strict=True):
        assert beside.tokens == after.tokens == generate(model, prompt, 12)
