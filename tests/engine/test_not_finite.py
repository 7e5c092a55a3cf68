"""What one session leaves in the cache that is not finite reaches no other, by whatever way it came there."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from model_worker.engine.engine import Engine
from model_worker.engine.errors import ForwardFailed
from model_worker.engine.forward import attention_varlen
from model_worker.engine.types import FinishReason, RunRequest
from tests.support.engines import Result, collect, failing_layer, generate, make_engine_of, run_all, run_one
from tests.support.pairs import CONFIGS, make_model
from tests.support.varlen import naive_varlen_attn

BROKEN = 299  # the token whose embedding is not finite
PROMPT = [7, 8, 9, 10, 11]
PATHS: dict[str, dict[str, Any]] = {
    "native": {"attention": "native"},
    "in place": {"attention": "in-place"},
    "gathered": {"attention": "gather"},
    "batch-invariant": {"batch_invariant": True},
    "batch-invariant gathered": {"batch_invariant": True, "attention": "gather"},
    "pages copied": {"attention": "in-place", "prefix_cache": "copy"},
    "pages shared": {"attention": "gather", "prefix_cache": "share"},
    "captured": {"attention": "varlen", "graphs": "on"},  # with rows that only fill a shape up
}
on_each_path = pytest.mark.parametrize("limits", PATHS.values(), ids=PATHS)


@pytest.fixture(autouse=True)
def _naive_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_varlen, "varlen_attn", naive_varlen_attn)


@pytest.fixture(params=[float("nan"), float("inf")], ids=["NaN", "inf"])
def bad(request: pytest.FixtureRequest) -> float:
    value: float = request.param
    return value


def make_engine(bad: float, **limits: Any) -> tuple[Engine, Any]:
    """An engine with a model that has a broken token, and a copy of the model that has none."""
    own, model = make_model(CONFIGS["llama"], 0), make_model(CONFIGS["llama"], 0)
    with torch.no_grad():
        own.get_input_embeddings().weight[BROKEN, 3] = bad
    return make_engine_of(own, **limits), model


def finite(engine: Engine) -> bool:
    """Whether nothing in the cache is other than finite, once a step has begun."""
    engine._clean()
    cache = engine._runner._cache
    return all(bool(tensor.isfinite().all()) for tensor in (*cache.keys, *cache.values))


def broken_prompt(length: int, at: int) -> list[int]:
    return [BROKEN if place == at else 20 + place % 200 for place in range(length)]


def steps(engine: Engine, results: dict[int, Result], count: int) -> None:
    for _ in range(count):
        collect(engine, results)


@on_each_path
@pytest.mark.parametrize("length", [1, 5, 40])
def test_a_session_that_only_catches_up(bad: float, limits: dict[str, Any], length: int) -> None:
    """Before others decode and while they do, in lanes between theirs; its own tokens stay held."""
    engine, model = make_engine(bad, num_pages=64, max_batch_tokens=32, **limits)
    expected = [generate(model, PROMPT[: 5 - i], 30) for i in range(3)]
    catch_up = RunRequest("c", 0, broken_prompt(length, length // 2))
    before = run_one(engine, catch_up)
    assert (before.finished.reason, before.finished.held) == (FinishReason.LENGTH, length)
    assert finite(engine)
    results = {engine.submit(RunRequest(f"a{i}", 0, PROMPT[: 5 - i], max_tokens=30)): Result() for i in range(3)}
    for number in range(10):
        steps(engine, results, 2)
        results[engine.submit(RunRequest(f"c{number}", 0, broken_prompt(length, 0)))] = Result()
    while not engine.is_idle:
        collect(engine, results)
    assert [result.tokens for result in results.values()][:3] == expected
    assert all(result.error is None for result in results.values())
    assert finite(engine)
    engine.check_integrity()
    (asked,) = run_all(engine, [RunRequest("c", length, [], max_tokens=1)])
    assert isinstance(asked.error, ForwardFailed)


@on_each_path
def test_pages_of_closed_and_evicted_sessions_and_of_cancelled_prefills(bad: float, limits: dict[str, Any]) -> None:
    engine, model = make_engine(bad, num_pages=12, page_size=8, context_length=64, max_batch_tokens=16, **limits)
    expected = generate(model, PROMPT, 20)
    for way in ("closed", "evicted", "cancelled", "superseded", "rolled back"):
        prompt = broken_prompt(40, 12)
        run = engine.submit(RunRequest("c", 0, prompt, max_tokens=0 if way in ("closed", "evicted") else 9))
        other = engine.submit(RunRequest("b", 0, PROMPT, max_tokens=20))
        results = {run: Result(), other: Result()}
        steps(engine, results, 2)
        if way == "cancelled":
            engine.cancel(run)
        elif way == "superseded":
            engine.supersede(run)
        while not engine.is_idle:
            collect(engine, results)
        assert results[other].tokens == expected, way
        if way == "closed":
            engine.close_session("c")
        elif way == "rolled back":
            run_one(engine, RunRequest("c", 3, [5], max_tokens=4))
        assert finite(engine), way
        requests = [RunRequest(f"{way}{i}", 0, PROMPT, max_tokens=20) for i in range(3)]
        assert [result.tokens for result in run_all(engine, requests)] == [expected] * 3, way
    assert engine.counters.num_evictions > 0


@on_each_path
def test_a_prompt_that_is_not_finite_in_the_same_steps(bad: float, limits: dict[str, Any]) -> None:
    """It is read in chunks beside others that decode, and fails as soon as one of them shows it."""
    engine, model = make_engine(bad, num_pages=64, max_batch_tokens=12, **limits)
    expected = generate(model, PROMPT, 20)
    results = {engine.submit(RunRequest(f"a{i}", 0, PROMPT, max_tokens=20)): Result() for i in range(3)}
    steps(engine, results, 3)
    bad_run = engine.submit(RunRequest("c", 0, broken_prompt(60, 9), max_tokens=5))
    results[bad_run] = Result()
    while not engine.is_idle:
        collect(engine, results)
        assert finite(engine)
    assert isinstance(results.pop(bad_run).error, ForwardFailed)
    assert [result.tokens for result in results.values()] == [expected] * 3
    engine.check_integrity()


@on_each_path
def test_a_decoded_token_and_a_draft(bad: float, limits: dict[str, Any]) -> None:
    engine, model = make_engine(bad, num_pages=64, **limits)
    truth = generate(model, PROMPT, 12)
    results = {engine.submit(RunRequest(f"a{i}", 0, PROMPT, max_tokens=12)): Result() for i in range(3)}
    steps(engine, results, 4)
    for request in (
        RunRequest("sent", 0, [BROKEN], max_tokens=4),
        RunRequest("drafted", 0, PROMPT, max_tokens=9, draft=[*truth[:2], BROKEN, 5]),
    ):
        results[engine.submit(request)] = Result()
        steps(engine, results, 1)
    while not engine.is_idle:
        collect(engine, results)
        assert finite(engine)
    *others, sent, drafted = results.values()
    assert [result.tokens for result in others] == [truth] * 3
    assert isinstance(sent.error, ForwardFailed)
    assert drafted.tokens == truth[: len(drafted.tokens)], "a broken draft may be verified in part, and never wrongly"
    assert drafted.tokens


def test_what_is_offered_to_others_is_finite(bad: float) -> None:
    """A beginning in common that holds the broken token is no beginning that others take over."""
    for mode in ("copy", "share"):
        engine, model = make_engine(bad, page_size=4, prefix_cache=mode, attention="gather")
        run_one(engine, RunRequest("c", 0, broken_prompt(30, 13)))
        good = broken_prompt(30, 13)[:13]
        assert run_one(engine, RunRequest("a", 0, good, max_tokens=5)).tokens == generate(model, good, 5)
        hits = engine.counters.num_cached_tokens
        (failed,) = run_all(engine, [RunRequest("d", 0, broken_prompt(30, 13), max_tokens=5)])
        assert isinstance(failed.error, ForwardFailed)
        assert engine.counters.num_cached_tokens - hits <= 12
        assert finite(engine)
        engine.check_integrity()


def test_a_forward_that_raises_leaves_nothing(bad: float) -> None:
    own, model = make_model(CONFIGS["llama"], 0), make_model(CONFIGS["llama"], 0)
    with torch.no_grad():
        own.get_input_embeddings().weight[BROKEN] = bad
    engine = make_engine_of(own, attention="in-place")
    results = {engine.submit(RunRequest("a", 0, PROMPT, max_tokens=20)): Result()}
    steps(engine, results, 3)
    failing = RunRequest("c", 0, broken_prompt(20, 4), max_tokens=3)
    with failing_layer(own.model.layers[-1], RuntimeError("lost")):
        results[engine.submit(failing)] = Result()
        steps(engine, results, 1)
    assert finite(engine)
    after = [RunRequest(name, 0, PROMPT, max_tokens=20) for name in ("a", "b")]
    assert [result.tokens for result in run_all(engine, after)] == [generate(model, PROMPT, 20)] * 2


def test_random_mixes(bad: float) -> None:
    """Law: whoever has no broken token gets what it gets alone."""
    rng = random.Random(5)
    for limits in (PATHS["in place"], PATHS["batch-invariant"], PATHS["pages copied"]):
        engine, model = make_engine(bad, num_pages=24, page_size=4, context_length=64, max_batch_tokens=10, **limits)
        prompts = [[rng.randrange(5, 290) for _ in range(rng.randrange(1, 14))] for _ in range(4)]
        truths = [generate(model, prompt, 9) for prompt in prompts]
        healthy = [which for which in range(4) if BROKEN not in truths[which]]
        results: dict[int, Result] = {}
        expected: dict[int, list[int]] = {}
        for number in range(40):
            if rng.random() < 0.5:
                which = rng.choice(healthy)
                run = engine.submit(RunRequest(f"s{number}", 0, prompts[which], max_tokens=9))
                expected[run] = truths[which]
            else:
                length = rng.randrange(1, 20)
                prompt = broken_prompt(length, rng.randrange(length))
                run = engine.submit(RunRequest(f"s{number}", 0, prompt, max_tokens=rng.choice([0, 0, 4])))
            results[run] = Result()
            steps(engine, results, rng.randrange(4))
        while not engine.is_idle:
            collect(engine, results)
        engine.check_integrity()
        assert finite(engine)
        for run, truth in expected.items():
            error = results[run].error
            assert not isinstance(error, ForwardFailed)
            assert results[run].tokens == truth or error is not None
