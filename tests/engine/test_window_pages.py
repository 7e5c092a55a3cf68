"""Layers that see a window only keep that and no more, and no token is another for it: rollbacks, forks, eviction."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch

from model_worker.engine.bookkeeping.windows import MARGIN, WindowMap
from model_worker.engine.engine import Engine
from model_worker.engine.forward import attention_varlen
from model_worker.engine.forward.graph_shapes import shapes_for, trial_batch
from model_worker.engine.forward.loader import adopt
from model_worker.engine.forward.memory import pages_that_fit, window_pages, window_share
from model_worker.engine.measure import measure_steps
from model_worker.engine.types import ForkRequest, Limits, RunRequest
from tests.support.engines import generate, make_engine_of, run_all, run_one
from tests.support.pairs import make_model
from tests.support.varlen import naive_varlen_attn
from tests.support.windowed import WINDOW, WINDOWED

PAGE = 16
PROMPTS = [list(range(30, 230)), [7, 8, 9]]
NUM_TOKENS = 170
# What a session keeps in a windowed layer, and what a step of so many tokens needs beside it.
MAX_BATCH_TOKENS = 24
MOST_ROOMS = -(-(WINDOW + MARGIN) // PAGE) + 2
PATHS: dict[str, dict[str, Any]] = {
    "native": {"attention": "native"},
    "in-place": {"attention": "in-place"},
    "gather": {"attention": "gather"},
    "invariant": {"batch_invariant": True},
    "varlen": {"attention": "varlen"},
    "captured": {"attention": "varlen", "graphs": "on"},
}
CASES = [("gemma3", path) for path in PATHS] + [("mistral", "native"), ("gpt_oss", "native"), ("llama4", "in-place")]


@pytest.fixture(autouse=True)
def _naive_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_varlen, "varlen_attn", naive_varlen_attn)


@functools.cache
def own_answers(family: str) -> tuple[Any, list[list[int]]]:
    model = make_model(WINDOWED[family], 3)
    return model, [generate(model, prompt, NUM_TOKENS) for prompt in PROMPTS]


def engine_of(family: str, num_rooms: int = 3 * MOST_ROOMS, **limits: Any) -> tuple[Engine, list[list[int]]]:
    model, expected = own_answers(family)
    sizes = {"num_pages": 80, "page_size": PAGE, "max_batch_tokens": MAX_BATCH_TOKENS, "num_window_pages": num_rooms}
    return make_engine_of(copy.deepcopy(model), **(sizes | limits)), expected


def rooms_taken(engine: Engine) -> int:
    assert engine._windows is not None
    return engine._windows.num_rooms - engine._windows.num_spare


@pytest.mark.parametrize(("family", "path"), CASES)
def test_a_long_answer_keeps_its_window_only(family: str, path: str) -> None:
    engine, expected = engine_of(family, **PATHS[path])
    requests = [RunRequest(f"s{i}", 0, prompt, max_tokens=NUM_TOKENS) for i, prompt in enumerate(PROMPTS)]
    for tokens, result in zip(expected, run_all(engine, requests), strict=True):
        assert result.error is None
        assert result.tokens == tokens
    assert rooms_taken(engine) <= 2 * MOST_ROOMS
    assert engine.capacity.num_pages - engine.capacity.num_free_pages >= (200 + NUM_TOKENS) // PAGE
    for name in ("s0", "s1"):
        engine.close_session(name)
    engine.check_integrity()
    assert rooms_taken(engine) == 0


@pytest.mark.parametrize("family", ["gemma3", "phi3"])
def test_a_rollback_near_or_far_and_a_draft_change_nothing(family: str) -> None:
    engine, (own, _) = engine_of(family)
    prompt = PROMPTS[0]
    said = [*prompt, *own]
    assert run_one(engine, RunRequest("s", 0, prompt, max_tokens=100)).tokens == own[:100]
    computed = engine.counters.num_computed_tokens
    for back in (30, 70, 250):  # within the margin, beyond it, before the answer
        position = len(prompt) + 100 - back
        run_one(engine, RunRequest("s", position, [99, 98], max_tokens=2))
        result = run_one(engine, RunRequest("s", position, said[position : len(prompt) + 100], max_tokens=10))
        assert result.tokens == own[100:110]
        computed, before = engine.counters.num_computed_tokens, computed
        assert (computed - before > 300) is (back > MARGIN // 2), "computed again from its beginning, or not"
    draft = [*own[110:114], (own[114] + 1) % 290, 7]
    assert run_one(engine, RunRequest("s", len(prompt) + 110, [], max_tokens=20, draft=draft)).tokens == own[110:115]


def test_a_fork_has_the_window_and_goes_on_alone() -> None:
    engine, (own, _) = engine_of("gemma3", num_rooms=5 * MOST_ROOMS)
    prompt = PROMPTS[0]
    run_one(engine, RunRequest("s", 0, prompt, max_tokens=60))
    for name, position in (("near", len(prompt) + 50), ("far", 100)):
        held, computed = engine.fork_session(ForkRequest("s", name, position))
        assert (held, computed) == (position, position if name == "near" else 0)
        tail = [*prompt, *own][position : len(prompt) + 51]
        assert run_one(engine, RunRequest(name, position, tail, max_tokens=10)).tokens == own[51:61]
    rest = run_one(engine, RunRequest("s", len(prompt) + 60, [], max_tokens=20))
    assert rest.tokens == own[60:80]


def test_rooms_are_what_an_idle_session_is_evicted_for() -> None:
    engine, (own, _) = engine_of("gemma3", num_rooms=MOST_ROOMS + 4)
    for name in "abcab":
        assert run_one(engine, RunRequest(name, 0, PROMPTS[0], max_tokens=20)).tokens == own[:20]
    assert engine.counters.num_evictions > 0


def test_what_is_not_finite_leaves_no_room_behind() -> None:
    model = make_model(WINDOWED["gemma3"], 3)
    engine = make_engine_of(
        copy.deepcopy(model), num_pages=80, page_size=PAGE, max_batch_tokens=24, num_window_pages=3 * MOST_ROOMS
    )
    weights = engine._runner._loaded.module.get_input_embeddings().weight
    with torch.inference_mode():
        kept = weights[299].clone()
        weights[299] = float("nan")
        (bad,) = run_all(engine, [RunRequest("bad", 0, [*PROMPTS[0], 299], max_tokens=5)])
        assert bad.error is not None
        weights[299] = kept
    engine.close_session("bad")
    assert run_one(engine, RunRequest("good", 0, PROMPTS[0], max_tokens=40)).tokens == generate(model, PROMPTS[0], 40)
    engine.check_integrity()


def test_room_is_shared_out_by_what_a_session_keeps() -> None:
    loaded = adopt(make_model(WINDOWED["gemma3"], 0))
    share = window_share(loaded, PAGE, MAX_BATCH_TOKENS)
    assert share == pytest.approx((WINDOW + MARGIN + PAGE) / 512)
    whole, saving = pages_that_fit(loaded, PAGE), pages_that_fit(loaded, PAGE, window_share=share)
    assert saving > 1.3 * whole  # half of the layers keep a third
    assert window_pages(loaded, saving, PAGE, MAX_BATCH_TOKENS) == pytest.approx(share * saving, abs=1)
    assert window_share(loaded, PAGE, 512) == 1  # a step as long as the context needs them all
    assert window_pages(loaded, 100, PAGE, 512) == 0


def test_a_rollback_of_half_the_margin_needs_nothing_that_was_left() -> None:
    windows = WindowMap(100, 20, PAGE, most_keys=WINDOW)
    for computed in range(1, 1000, 7):
        left = windows.first_kept(computed)
        back = max(0, computed - MARGIN // 2)
        assert windows.first_needed(back) >= left
        assert left * PAGE <= max(0, computed - WINDOW - MARGIN)


def test_steps_are_measured_where_windows_have_little_room() -> None:
    engine, (own, _) = engine_of("gemma3", max_batch_tokens=300, num_pages=200, num_rooms=50)
    costs = measure_steps(engine, budget_s=0.5)
    assert costs is not None
    assert any(cost.num_tokens_per_row > MARGIN for cost in costs.step_costs), "no long row was measured"
    engine.check_integrity()
    assert run_one(engine, RunRequest("s", 0, PROMPTS[0], max_tokens=10)).tokens == own[:10]


def test_a_long_fork_takes_room_for_its_window_alone() -> None:
    engine, (own, _) = engine_of("gemma3", num_rooms=2 * MOST_ROOMS + 4)
    prompt = PROMPTS[0]
    run_one(engine, RunRequest("idle", 0, [7, 8, 9], max_tokens=2))
    run_one(engine, RunRequest("s", 0, prompt, max_tokens=170))
    position = len(prompt) + 160
    assert engine.fork_session(ForkRequest("s", "fork", position)) == (position, position)
    assert {session.session_id for session in engine._table} == {"idle", "s", "fork"}, "evicted for nothing"
    assert run_one(engine, RunRequest("fork", position, [], max_tokens=10)).tokens == own[160:170]


def test_a_check_may_go_on_for_longer_than_windows_have_room() -> None:
    engine, (own, _) = engine_of("gemma3", num_rooms=MOST_ROOMS + 2, check_tokens=400)
    assert run_one(engine, RunRequest("s", 0, PROMPTS[0], max_tokens=10)).tokens == own[:10]


def test_rows_of_a_trial_write_to_places_of_their_own() -> None:
    limits = Limits(300, 512, num_pages=200, page_size=PAGE, max_batch_tokens=128, num_window_pages=20)
    windows = WindowMap(limits.num_pages, limits.num_window_pages, PAGE, most_keys=WINDOW)
    for shape in shapes_for(limits):
        batch = trial_batch(shape, limits)
        places = {(windows.rooms[slot // PAGE], slot % PAGE) for slot in batch.slots}
        assert len(places) == batch.num_tokens, f"two tokens in one place: {shape}"
