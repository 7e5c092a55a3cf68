"""Observing given tokens: what a plain forward says of them, in any batch and by any path."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from model_worker.engine.bookkeeping.cost_model import CostModel
from model_worker.engine.errors import ForwardFailed
from model_worker.engine.forward import attention_varlen
from model_worker.engine.forward.loader import adopt
from model_worker.engine.observing import MAX_OBSERVED, Observe
from model_worker.engine.shared_layers.engine import SharedEngine
from model_worker.engine.shared_layers.model import share_layers
from model_worker.engine.types import FinishReason, Limits, RunRequest
from tests.support.engines import Result, collect, generate, make_engine, make_engine_of, run_all, run_one
from tests.support.observing import along
from tests.support.pairs import CONFIGS, CONTEXT_LENGTH, VOCAB_SIZE, make_model
from tests.support.shared_layers import make_pair
from tests.support.varlen import naive_varlen_attn

PROMPT = [7, 8, 9, 10, 11]
BROKEN = 299
RNG = random.Random(3)
TEXTS = [[RNG.randrange(5, 290) for _ in range(length)] for length in (2, 3, 31, 90, 70)]
STARTS = [1, 2, 17, 1, 40]
PATHS: dict[str, dict[str, Any]] = {
    "native": {"attention": "native"},
    "in place": {"attention": "in-place"},
    "graphs": {"attention": "varlen", "graphs": "on"},
    "batch-invariant": {"batch_invariant": True},
    "pages copied": {"prefix_cache": "copy"},
    "pages shared": {"attention": "gather", "prefix_cache": "share"},
}


def watching(name: str, tokens: Sequence[int], start: int = 1, above: float = -1.0, **fields: Any) -> RunRequest:
    return RunRequest(name, 0, tokens[:-1], observe=Observe(start, above), **fields)


def check(
    result: Result, model: Any, tokens: Sequence[int], start: int, above: float, masked: Sequence[int] = ()
) -> None:
    """Every position was looked at once and in order, and those over the bound were told, with what is to be told."""
    expected = along(model, tokens, start, masked)
    assert result.error is None
    assert (result.finished.reason, result.finished.held) == (FinishReason.STEP, len(tokens) - 1)
    assert not result.tokens
    assert sum(event.num_positions for event in result.observed) == len(tokens) - start
    positions = [position for event in result.observed for position in event.positions]
    assert positions == expected.above(above)
    places = [position - start for position in positions]
    assert [token for event in result.observed for token in event.tokens] == [expected.tokens[i] for i in places]
    entropies = torch.tensor([entropy for event in result.observed for entropy in event.entropies])
    torch.testing.assert_close(entropies, expected.entropies[places].float(), atol=1e-5, rtol=1e-4)
    states = b"".join(event.hidden_states for event in result.observed)
    hidden = expected.hidden[places].float().numpy()
    halves = np.frombuffer(states, "<f2").astype(np.float32).reshape(hidden.shape)
    np.testing.assert_allclose(halves, hidden, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_it_is_what_transformers_say(architecture: str) -> None:
    """In float32, in chunks, alone and side by side, whatever the model is."""
    own = make_model(CONFIGS[architecture], 1).float()
    engine, model = make_engine_of(copy.deepcopy(own), max_batch_tokens=24), own
    for above in (-1.0, 0.2):
        requests = [watching(f"s{i}", text, STARTS[i], above) for i, text in enumerate(TEXTS)]
        for some in (requests[3:4], requests):
            for request, result in zip(some, run_all(engine, some), strict=True):
                text = TEXTS[requests.index(request)]
                check(result, model, text, STARTS[requests.index(request)], above)
            for request in some:
                engine.close_session(request.session_id)
    assert engine.capacity.num_free_pages == engine.capacity.num_pages


@pytest.mark.parametrize("limits", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("background", [False, True])
def test_among_runs_that_decode(monkeypatch: pytest.MonkeyPatch, limits: dict[str, Any], background: bool) -> None:
    monkeypatch.setattr(attention_varlen, "varlen_attn", naive_varlen_attn)
    engine, model = make_engine(max_batch_tokens=24, **limits)
    engine.costs = CostModel({1: 1000.0, 8: 1100.0}, {64: 9000.0}, {64: 9000.0})
    masked = [(), (5, 6, 200), (), (along(model, TEXTS[3]).tokens[4],), ()]
    requests = [
        watching(f"s{i}", text, STARTS[i], 0.2, background=background, masked_tokens=masked[i])
        for i, text in enumerate(TEXTS)
    ]
    decoding = [RunRequest(f"d{i}", 0, PROMPT[i:], max_tokens=30) for i in range(3)]
    results = run_all(engine, [*decoding[:1], *requests, *decoding[1:]])
    others = [results[0], *results[-2:]]
    assert [result.tokens for result in others] == [generate(model, PROMPT[i:], 30) for i in range(3)]
    for text, start, without, result in zip(TEXTS, STARTS, masked, results[1:-2], strict=True):
        check(result, model, text, start, 0.2, without)
    again = run_all(engine, [watching(f"t{i}", text, STARTS[i], 0.2) for i, text in enumerate(TEXTS)])
    for text, start, result in zip(TEXTS, STARTS, again, strict=True):
        check(result, model, text, start, 0.2)


def test_a_step_asks_for_so_many_distributions_and_others_go_first() -> None:
    engine, model = make_engine(max_batch_tokens=450)
    text = [RNG.randrange(5, 290) for _ in range(401)]
    watched = [engine.submit(watching(f"s{i}", text, 1 + 100 * i, background=True)) for i in range(3)]
    results = {run: Result() for run in watched}
    decode = engine.submit(RunRequest("d", 0, PROMPT, max_tokens=8))
    results[decode] = Result()
    for num_kept in range(1, 9):
        before = {run: sum(event.num_positions for event in results[run].observed) for run in watched}
        collect(engine, results)
        told = [sum(event.num_positions for event in results[run].observed) - before[run] for run in watched]
        assert 0 < sum(told) <= MAX_OBSERVED or all(results[run].finished for run in watched)
        assert len(results[decode].tokens) == num_kept
    assert all(result.finished for result in results.values())
    for i, run in enumerate(watched):
        check(results[run], model, text, 1 + 100 * i, -1.0)


def test_where_steps_take_long_it_delays_no_decode_and_wastes_no_step() -> None:
    engine, model = make_engine(max_batch_tokens=64)
    engine.costs = CostModel({1: 9000.0, 8: 9000.0}, {64: 90000.0}, {64: 90000.0})
    text = TEXTS[3]
    results = {engine.submit(watching("s", text, background=True)): Result()}
    results[engine.submit(RunRequest("d", 0, PROMPT[:1], max_tokens=5, stop_tokens=frozenset([VOCAB_SIZE])))] = Result()
    for _ in range(5):
        collect(engine, results)
    watched, decoded = results.values()
    assert len(decoded.tokens) == 5
    assert sum(event.num_positions for event in watched.observed) <= 5, "what a decode step has to spare: a row of one"
    while not engine.is_idle:
        collect(engine, results)
    sizes = [event.num_positions for event in watched.observed]
    assert all(size == 16 for size in sizes[5:-1])
    check(watched, model, text, 1, -1.0)


@pytest.mark.parametrize("background", [False, True])
def test_both_roles_of_shared_layers(background: bool) -> None:
    model, slm, tail = make_pair("llama", 1)
    own, own_tail = copy.deepcopy((model, tail))
    engine = SharedEngine(
        adopt(own, CONTEXT_LENGTH),
        share_layers(own, 1, own_tail),
        Limits(VOCAB_SIZE, CONTEXT_LENGTH, 128, max_batch_tokens=24),
    )
    requests = [
        watching(f"{role}{i}", text, STARTS[i], 0.2, shallow=role == "slm", background=background)
        for i, text in enumerate(TEXTS)
        for role in ("slm", "llm")
    ]
    decoding = [RunRequest(role, 0, PROMPT, max_tokens=20, shallow=role == "slm") for role in ("slm", "llm")]
    *results, by_slm, by_llm = run_all(engine, [*requests, *decoding])
    assert by_slm.tokens == generate(slm, PROMPT, 20)
    assert by_llm.tokens == generate(model, PROMPT, 20)
    for number, result in enumerate(results):
        check(result, model if number % 2 else slm, TEXTS[number // 2], STARTS[number // 2], 0.2)
    # The LLM goes on in the layers above where the SLM has been.
    check(run_one(engine, watching("slm3", TEXTS[3], 60)), model, TEXTS[3], 60, -1.0)


def test_when_pages_run_short_it_yields_in_the_background_and_says_how_far_it_came() -> None:
    engine, model = make_engine(num_pages=14, page_size=8, max_batch_tokens=24)
    decode = RunRequest("d", 0, PROMPT, max_tokens=90, stop_tokens=frozenset([VOCAB_SIZE]))
    results = {engine.submit(decode): Result()}
    for _ in range(60):
        collect(engine, results)
    results[engine.submit(watching("s", TEXTS[3], background=True))] = Result()
    while not engine.is_idle:
        collect(engine, results)
    decoded, ended = results.values()
    assert (ended.finished.reason, decoded.finished.reason) == (FinishReason.LENGTH, FinishReason.LENGTH)
    num_told = sum(event.num_positions for event in ended.observed)
    assert 23 <= num_told < len(TEXTS[3]) - 1
    rest = run_one(engine, watching("s", TEXTS[3], 1 + num_told))
    check(rest, model, TEXTS[3], 1 + num_told, -1.0)


def test_tokens_that_are_not_finite_fail_alone() -> None:
    own, model = make_model(CONFIGS["llama"], 0), make_model(CONFIGS["llama"], 0)
    with torch.no_grad():
        own.get_input_embeddings().weight[BROKEN, 3] = float("nan")
    engine = make_engine_of(own, attention="in-place", max_batch_tokens=40)
    for start in (1, 25, 60):  # the broken token is asked about, before that, or after
        broken = [*TEXTS[3][:30], BROKEN, *TEXTS[3][30:]]
        requests = [watching("bad", broken, start), watching("good", TEXTS[4], 1)]
        bad, good, decoded = run_all(engine, [*requests, RunRequest("d", 0, PROMPT, max_tokens=20)])
        assert isinstance(bad.error, ForwardFailed)
        assert sum(event.num_positions for event in bad.observed) <= max(0, 31 - start)
        check(good, model, TEXTS[4], 1, -1.0)
        assert decoded.tokens == generate(model, PROMPT, 20)
        for name in ("bad", "good", "d"):
            engine.close_session(name)
