"""Laws of shared prefixes at the engine: with pages in common or not, every answer is the model's own."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from model_worker.engine.errors import (
    HeldTooShort,
    InvalidRun,
    NoCapacity,
    SaltMismatch,
    SessionBusy,
    SessionUnknown,
)
from model_worker.engine.forward.loader import adopt
from model_worker.engine.shared_layers.engine import SharedEngine
from model_worker.engine.shared_layers.model import share_layers
from model_worker.engine.types import ForkRequest, Limits, PrefixCache, Returns, RunRequest, Sampling
from tests.support.engines import (
    Result,
    collect,
    failing_forward,
    generate,
    held_by,
    make_engine,
    make_engine_of,
    run_all,
    run_one,
)
from tests.support.pairs import CONFIGS, CONTEXT_LENGTH, STOP_TOKEN, VOCAB_SIZE, make_model
from tests.support.shared_layers import make_pair

SYSTEM = [(7 * index + 11) % 290 + 5 for index in range(40)]
MODES: list[PrefixCache] = ["off", "share", "copy"]


def questions(num: int) -> list[list[int]]:
    return [[*SYSTEM, *range(60 + index, 64 + 2 * index)] for index in range(num)]


@pytest.mark.parametrize(("mode", "attention"), [("share", "gather"), ("copy", "in-place"), ("share", "in-place")])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_questions_after_one_system_prompt_are_answered_as_alone(
    architecture: str, mode: PrefixCache, attention: str
) -> None:
    engine, model = make_engine(architecture, max_batch_tokens=24, attention=attention, prefix_cache=mode)
    asked = questions(5)
    expected = [generate(model, prompt, 20) for prompt in asked]
    requests = [RunRequest(f"s{i}", 0, prompt, max_tokens=20) for i, prompt in enumerate(asked)]
    first = run_one(engine, requests[0])
    together = run_all(engine, requests[1:])
    assert [first.tokens, *(result.tokens for result in together)] == expected
    assert [result.finished.timing.num_cached_tokens for result in together] == [32] * 4
    for index in range(5):  # of closed sessions, too
        engine.close_session(f"s{index}")
    again = run_one(engine, RunRequest("again", 0, asked[3], max_tokens=20))
    assert (again.tokens, again.finished.timing.num_cached_tokens) == (expected[3], 32)
    assert engine.counters.num_cached_tokens == 5 * 32
    assert engine.counters.num_cache_hits == 5


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("length", [31, 32, 33])
def test_samples_of_one_question_are_those_of_each_alone(mode: PrefixCache, length: int) -> None:
    prompt = SYSTEM[:length]
    alone, _ = make_engine()
    requests = [RunRequest(f"s{i}", 0, prompt, Sampling(0.9, seed=i), max_tokens=25) for i in range(8)]
    expected = [run_one(alone, request).tokens for request in requests]
    engine, _ = make_engine(prefix_cache=mode)
    assert [result.tokens for result in run_all(engine, requests)] == expected
    shared = (length - 1) // 16 * 16  # the token whose distribution is asked for is always computed
    prompts = 8 * length if mode == "off" else 8 * length - 7 * shared
    assert engine.counters.num_computed_tokens == prompts + sum(len(tokens) - 1 for tokens in expected)


@pytest.mark.parametrize("mode", MODES)
def test_in_float32_no_answer_differs(mode: PrefixCache) -> None:
    """A shared page was computed in other chunks than the session's own would have been."""
    model = make_model(CONFIGS["qwen3"], 0).to(torch.float32)
    asked = questions(6)
    expected = [generate(model, prompt, 30) for prompt in asked]
    for budget in (16, 23, 64):
        engine = make_engine_of(make_model(CONFIGS["qwen3"], 0).float(), max_batch_tokens=budget, prefix_cache=mode)
        requests = [RunRequest(f"s{i}", 0, prompt, max_tokens=30) for i, prompt in enumerate(asked)]
        assert [result.tokens for result in run_all(engine, requests)] == expected


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_pages", [200, 20])
def test_any_mix_gives_the_models_own_tokens(mode: PrefixCache, num_pages: int) -> None:
    """Rollbacks, drafts right and wrong, forks, cancels, closes and evictions among sessions that begin alike."""
    sizes = {"num_pages": num_pages, "page_size": 8, "context_length": 96, "max_batch_tokens": 32}
    engine, model = make_engine(prefix_cache=mode, **sizes)
    rng = random.Random(num_pages)
    prompts = [[*SYSTEM[:24], 100 + index // 3, 101, 102 + index % 3] for index in range(9)]
    truths = [prompt + generate(model, prompt, 40) for prompt in prompts]
    held = [0] * 9
    errors = 0
    for turn in range(60):
        chosen = rng.sample(range(9), 4)
        runs: dict[int, int] = {}
        for index in chosen:
            truth = truths[index]
            start = rng.choice([min(held[index], len(truth) - 1), rng.randrange(min(held[index], len(truth) - 2) + 1)])
            end = max(start, rng.randrange(len(prompts[index]), len(truth) - 1))
            draft = truth[end : end + 4] if turn % 3 else [*truth[end : end + 2], 299, 298]
            request = RunRequest(
                f"s{index}",
                start,
                truth[start:end] or truth[end - 1 : end],
                max_tokens=min(6, len(truth) - end),
                draft=draft if rng.random() < 0.4 else (),
            )
            if not truth[start:end]:
                request = RunRequest(f"s{index}", start, [], max_tokens=1) if start else request
            try:
                runs[engine.submit(request)] = index
            except HeldTooShort as error:
                held[index] = error.held
        results = {run: Result() for run in runs}
        cancelled = rng.choice(list(runs)) if runs and rng.random() < 0.2 else None
        while not engine.is_idle:
            collect(engine, results)
            if cancelled is not None:
                engine.cancel(cancelled)
            engine.check_integrity()
        for run, result in results.items():
            index = runs[run]
            errors += isinstance(result.error, NoCapacity)
            held[index] = held_by(engine, f"s{index}")
            assert engine_tokens(engine, index) == truths[index][: held[index]]
        if rng.random() < 0.3:
            index = rng.choice(chosen)
            engine.close_session(f"s{index}")
            held[index] = 0
        source, other = rng.sample(range(9), 2)
        common = min(held[source], next(i for i in range(99) if truths[source][i : i + 1] != truths[other][i : i + 1]))
        if rng.random() < 0.4 and common:
            try:
                engine.fork_session(ForkRequest(f"s{source}", f"s{other}", common))
                held[other] = common
            except SessionUnknown:
                held[source] = 0
        engine.check_integrity()
    assert (engine.counters.num_cached_tokens > 0) == (mode != "off")
    assert (engine.counters.num_evictions > 0) == (num_pages == 20)


def engine_tokens(engine: Any, index: int) -> list[int]:
    session = engine._table.get(f"s{index}")
    return list(session.tokens) if session is not None else []


@pytest.mark.parametrize("mode", ["share", "copy"])
def test_two_tenants_share_nothing(mode: PrefixCache) -> None:
    engine, model = make_engine(prefix_cache=mode)
    for salt in ("a", "b", ""):
        result = run_one(engine, RunRequest(salt or "none", 0, SYSTEM, max_tokens=8, cache_salt=salt))
        assert result.tokens == generate(model, SYSTEM, 8)
        assert result.finished.timing.num_cached_tokens == 0
    same = run_one(engine, RunRequest("a2", 0, SYSTEM, max_tokens=8, cache_salt="a"))
    assert same.finished.timing.num_cached_tokens == 32
    computed = engine.counters.num_computed_tokens
    other = run_one(engine, RunRequest("a2", len(SYSTEM), [], max_tokens=8, cache_salt="c"))
    assert other.tokens == generate(model, SYSTEM, 8)
    assert engine.counters.num_computed_tokens - computed == len(SYSTEM) + 7, "nothing of the first tenant's is kept"


@pytest.mark.parametrize("mode", MODES)
def test_a_fork_goes_on_where_its_source_was_without_a_forward(mode: PrefixCache) -> None:
    engine, model = make_engine(prefix_cache=mode)
    source = run_one(engine, RunRequest("source", 0, SYSTEM, max_tokens=20))
    whole = SYSTEM + source.tokens
    computed = engine.counters.num_computed_tokens
    for position in (39, 40, 48, 57):
        assert engine.fork_session(ForkRequest("source", "fork", position)) == (position, position)
        engine.check_integrity()
        assert engine.counters.num_computed_tokens == computed
        request = RunRequest("fork", position, whole[position : position + 1], max_tokens=20)
        assert run_one(engine, request).tokens == generate(model, whole[: position + 1], 20)
        computed = engine.counters.num_computed_tokens
    assert run_one(engine, RunRequest("source", len(whole), [], max_tokens=9)).tokens == generate(model, whole, 9)


def test_a_running_session_can_be_forked_and_what_cannot_be_right_is_refused() -> None:
    engine, model = make_engine(prefix_cache="share")
    run = engine.submit(RunRequest("source", 0, SYSTEM, max_tokens=30))
    results = {run: Result()}
    for _ in range(5):
        collect(engine, results)
    assert engine.fork_session(ForkRequest("source", "fork", 44)) == (44, 44)
    for fork, error, field in (
        (ForkRequest("none", "fork", 4), SessionUnknown, "source_session_id"),
        (ForkRequest("source", "fork", 46), HeldTooShort, "position"),
        (ForkRequest("source", "fork", 0), InvalidRun, "position"),
        (ForkRequest("source", "source", 4), InvalidRun, "session_id"),
        (ForkRequest("source", "fork", 4, "tenant"), SaltMismatch, "cache_salt"),
        (ForkRequest("fork", "source", 4), SessionBusy, "session_id"),
    ):
        with pytest.raises(error) as refused:
            engine.fork_session(fork)
        assert refused.value.field == field
        assert refused.value.remedy
    while not engine.is_idle:
        collect(engine, results)
    expected = generate(model, SYSTEM, 30)
    assert results[run].tokens == expected
    assert run_one(engine, RunRequest("fork", 44, [], max_tokens=26)).tokens == expected[4:]
    engine.check_integrity()


@pytest.mark.parametrize("mode", MODES)
def test_what_is_not_finite_is_found_by_nobody(mode: PrefixCache) -> None:
    """A fault that goes away: who comes after it is answered, also whoever begins as the session that met it."""
    own, model = make_model(CONFIGS["llama"], 0), make_model(CONFIGS["llama"], 0)
    engine = make_engine_of(own, prefix_cache=mode, max_batch_tokens=16)
    weight = own.get_input_embeddings().weight
    good = weight[SYSTEM[3]].clone()
    with torch.no_grad():
        weight[SYSTEM[3]] = float("nan")
    run_one(engine, RunRequest("fed", 0, SYSTEM))  # which asks for no distribution that would show it
    with torch.no_grad():
        weight[SYSTEM[3]] = good
    expected = generate(model, SYSTEM, 4)
    after = run_all(engine, [RunRequest(f"s{i}", 0, SYSTEM, max_tokens=4) for i in range(2)])
    assert [result.tokens for result in after] == [expected] * 2
    assert run_one(engine, RunRequest("fed", len(SYSTEM), [], max_tokens=4)).tokens == expected
    for i in range(3):
        engine.close_session(f"s{i}")
    requests = [RunRequest(f"t{i}", 0, [*SYSTEM, i + 9], max_tokens=20) for i in range(12)]
    for request, result in zip(requests, run_all(engine, requests), strict=True):
        assert result.tokens == generate(model, list(request.tokens), 20)


@pytest.mark.parametrize("mode", ["share", "copy"])
def test_a_failed_forward_leaves_nothing_to_be_found(mode: PrefixCache) -> None:
    own, model = make_model(CONFIGS["llama"], 0), make_model(CONFIGS["llama"], 0)
    engine = make_engine_of(own, prefix_cache=mode)
    with failing_forward(own, RuntimeError("no")):
        run_all(engine, [RunRequest(f"s{i}", 0, SYSTEM, max_tokens=5) for i in range(3)])
    results = run_all(engine, [RunRequest(f"t{i}", 0, SYSTEM, max_tokens=5) for i in range(3)])
    assert [result.tokens for result in results] == [generate(model, SYSTEM, 5)] * 3
    assert [result.finished.timing.num_cached_tokens for result in results] == [0, 32, 32]


@pytest.mark.parametrize("mode", ["share", "copy"])
def test_both_roles_of_a_model_with_shared_layers_take_over_what_all_layers_have_computed(mode: PrefixCache) -> None:
    model, slm, _ = make_pair("llama", 1)
    own, _, own_tail = make_pair("llama", 1)
    limits = Limits(VOCAB_SIZE, CONTEXT_LENGTH, num_pages=40, max_batch_tokens=24, prefix_cache=mode)
    engine = SharedEngine(adopt(own, CONTEXT_LENGTH), share_layers(own, 1, own_tail), limits)
    rng = random.Random(3)
    for index, prompt in enumerate(questions(12)):
        name, tokens = f"s{index}", list(prompt)
        for turn in range(6):
            shallow = (turn + index) % 2 == 0
            count = rng.randrange(1, 6)
            request = RunRequest(name, 0, tokens, max_tokens=count, shallow=shallow)
            result = run_one(engine, request)
            assert result.tokens == generate(slm if shallow else model, tokens, count)[: len(result.tokens)]
            assert turn or index < 2 or result.finished.timing.num_cached_tokens >= 16
            tokens += result.tokens
            if rng.random() < 0.4:
                tokens = tokens[: rng.randrange(30, len(tokens))]
            if tokens[-1] == STOP_TOKEN:
                break
    together = [
        RunRequest(f"t{i}", 0, prompt, max_tokens=12, shallow=i % 2 == 0) for i, prompt in enumerate(questions(6))
    ]
    for request, result in zip(together, run_all(engine, together), strict=True):
        assert result.tokens == generate(slm if request.shallow else model, list(request.tokens), 12)


def test_a_distribution_asked_for_again_is_the_same() -> None:
    engine, _ = make_engine(prefix_cache="share")
    prompt = SYSTEM[:32]
    first = run_one(engine, RunRequest("a", 0, prompt, returns=Returns(-1)))
    for name in ("a", "b", "a", "c"):
        again = run_one(
            engine, RunRequest(name, 0 if name != "a" else 32, prompt if name != "a" else [], returns=Returns(-1))
        )
        assert again.finished.proposal.token == first.finished.proposal.token
        assert again.finished.proposal.entropy == pytest.approx(first.finished.proposal.entropy, abs=1e-9)
