"""Laws of a model with shared layers, at the engine: both roles' tokens are what `transformers` gives for each alone,
whoever wrote before, whatever else is in the batch, with pages short and sessions evicted.
"""

from __future__ import annotations

import copy
import gc
import itertools
import random
import weakref
from typing import Any

import pytest
import torch

from evals.algorithm.reference import Threshold, stitch
from evals.algorithm.uncached_model import UncachedModel
from model_worker.engine.errors import HeldTooShort, PrefixMismatch, SessionBusy, UnsupportedModel
from model_worker.engine.forward.loader import adopt
from model_worker.engine.shared_layers.engine import SharedEngine
from model_worker.engine.shared_layers.model import share_layers
from model_worker.engine.types import FinishReason, Handoff, Limits, Returns, RunRequest, Sampling
from tests.support.engines import Result, collect, generate, run_all, run_one
from tests.support.pairs import CONFIGS, CONTEXT_LENGTH, STOP_TOKEN, VOCAB_SIZE, make_model
from tests.support.shared_layers import make_pair

PROMPTS = [[7, 8, 9, 10, 11], [20, 21, 22] * 9, [50], list(range(30, 100)), [5, 250, 17, 130]]


def make_engine(architecture: str = "llama", num_layers: int = 1, **limits: Any) -> tuple[SharedEngine, Any, Any]:
    """An engine, and untouched copies of the LLM and of the SLM."""
    model, slm, tail = make_pair(architecture, num_layers)
    own, own_tail = copy.deepcopy((model, tail))
    sizes = {"vocab_size": VOCAB_SIZE, "context_length": CONTEXT_LENGTH, "num_pages": 128} | limits
    loaded = adopt(own, sizes["context_length"])
    return SharedEngine(loaded, share_layers(own, num_layers, own_tail), Limits(**sizes)), model, slm


@pytest.mark.parametrize(
    ("architecture", "attention"),
    [
        ("llama", "native"),
        ("qwen2", "gather"),
        ("qwen3", "in-place"),
        ("mistral", "in-place"),
        ("gemma2", "native"),
    ],
)
def test_each_role_alone_equals_transformers_generate(architecture: str, attention: str) -> None:
    engine, model, slm_model = make_engine(architecture, max_batch_tokens=24, attention=attention)
    requests = [
        RunRequest(f"{role}{i}", 0, prompt, max_tokens=30, shallow=role == "slm")
        for role in ("slm", "llm")
        for i, prompt in enumerate(PROMPTS)
    ]
    expected = [generate(role, prompt, 30) for role in (slm_model, model) for prompt in PROMPTS]
    assert [result.tokens for result in run_all(engine, requests)] == expected


@pytest.mark.parametrize("num_layers", [1, 2])
def test_roles_take_turns_in_one_session_and_each_writes_as_alone(num_layers: int) -> None:
    engine, model, slm_model = make_engine(num_layers=num_layers, max_batch_tokens=16)
    rng = random.Random(1)
    tokens = list(PROMPTS[3])
    held = {True: 0, False: 0}
    for turn in range(30):
        slm = turn % 2 == 0
        count = rng.randrange(1, 12)
        result = run_one(engine, RunRequest("s", held[slm], tokens[held[slm] :], max_tokens=count, shallow=slm))
        assert result.tokens == generate(slm_model if slm else model, tokens, count)[: len(result.tokens)]
        tokens += result.tokens
        held[slm] = len(tokens)
        if rng.random() < 0.3:  # roll back, as after a stop string
            tokens = tokens[: rng.randrange(len(PROMPTS[3]), len(tokens))]
            held = {role: min(count, len(tokens)) for role, count in held.items()}


def stitched(engine: SharedEngine, name: str, prompt: list[int], tau: float, num: int, rng: random.Random) -> Any:
    """Algorithm 1 as the router drives it, one request yielded at a time; returns (token, role) in order."""
    tokens, written, slm = list(prompt), [], True
    held = {True: 0, False: 0}
    while len(written) < num and not (written and written[-1][0] == STOP_TOKEN):
        if rng.random() < 0.5:  # the other role is fed meanwhile
            yield RunRequest(name, held[not slm], tokens[held[not slm] :], shallow=not slm)
            held[not slm] = len(tokens)
        handoff = Handoff(above=tau) if slm else Handoff(below=tau)
        request = RunRequest(
            name, held[slm], tokens[held[slm] :], max_tokens=num - len(written), handoff=handoff, shallow=slm
        )
        result = yield request
        if result.error is not None:
            assert isinstance(result.error, HeldTooShort)
            held[slm] = result.error.held
            continue
        written += [(token, "slm" if slm else "llm") for token in result.tokens]
        tokens += result.tokens
        held[slm] = len(tokens)
        if result.finished.reason is FinishReason.HANDOFF:
            slm = not slm
    return written


@pytest.mark.parametrize("num_pages", [128, 14])
def test_stitching_of_many_sessions_equals_the_reference(num_pages: int) -> None:
    """With 14 pages of 16 tokens only some of the sessions fit: idle ones are evicted between their runs."""
    engine, model, slm_model = make_engine(num_pages=num_pages, max_batch_tokens=32)
    rng = random.Random(2)
    asked = [
        ([rng.randrange(5, 300) for _ in range(rng.randrange(1, 30))], rng.choice((0.1, 0.3, 0.4))) for _ in range(10)
    ]
    loops = [stitched(engine, f"s{i}", prompt, tau, 30, rng) for i, (prompt, tau) in enumerate(asked)]
    written: dict[int, list[tuple[int, str]]] = {}
    waiting: dict[int, tuple[int, Result]] = {}

    def go_on(index: int, result: Result | None) -> None:
        try:
            request = loops[index].send(result)
            while True:
                try:
                    waiting[engine.submit(request)] = (index, Result())
                    return
                except HeldTooShort as error:
                    request = loops[index].send(Result(error=error))
        except StopIteration as stop:
            written[index] = stop.value

    width = 10 if num_pages > 100 else 4  # as many as run at once without a refusal
    fresh = iter(range(len(loops)))
    for index in itertools.islice(fresh, width):
        go_on(index, None)
    while waiting:
        collect(engine, {run_id: result for run_id, (_, result) in waiting.items()})
        engine.check_integrity()
        for run_id, (index, result) in list(waiting.items()):
            if result.finished is not None or result.error is not None:
                del waiting[run_id]
                assert result.error is None
                go_on(index, result)
                if index in written and (following := next(fresh, None)) is not None:
                    go_on(following, None)
    assert (engine.counters.num_evictions > 0) == (num_pages == 14)
    roles = set()
    for index, (prompt, tau) in enumerate(asked):
        oracles = (UncachedModel(each, VOCAB_SIZE) for each in (slm_model, model))
        reference = stitch(*oracles, prompt, Threshold(tau), max_new_tokens=30, stop_tokens={STOP_TOKEN})
        assert written[index] == [(token.id, token.model) for token in reference.written]
        roles |= {role for _, role in written[index]}
    assert roles == {"slm", "llm"}


def test_drafts_of_the_slm_verified_equal_the_models_own_decoding() -> None:
    """Self-speculation: right and wrong drafts, with tokens before them that only the shared layers have computed."""
    engine, model, _ = make_engine(max_batch_tokens=16)
    tokens, expected = list(PROMPTS[3]), generate(model, PROMPTS[3], 40)
    rng = random.Random(4)
    while len(tokens) < len(PROMPTS[3]) + 40:
        left = len(PROMPTS[3]) + 40 - len(tokens)
        draft = run_one(engine, RunRequest("s", 0, tokens, max_tokens=5, shallow=True)).tokens
        if rng.random() < 0.5:  # the engine's own next tokens, and a wrong one
            at = len(tokens) - len(PROMPTS[3])
            draft = [*expected[at : at + 3], 299]
        tokens += run_one(engine, RunRequest("s", 0, tokens, max_tokens=left, draft=draft)).tokens
    assert tokens == PROMPTS[3] + expected


def test_what_one_role_computed_the_other_need_not() -> None:
    engine, _, _ = make_engine()
    tokens = list(range(30, 70))
    run_one(engine, RunRequest("s", 0, tokens, returns=Returns(), shallow=True))
    deep = run_one(engine, RunRequest("s", 0, tokens, returns=Returns())).finished
    assert deep.timing.num_steps == 1
    run_one(engine, RunRequest("t", 0, tokens, returns=Returns()))
    shallow = run_one(engine, RunRequest("t", 0, [*tokens, 5], returns=Returns(), shallow=True)).finished
    assert shallow.timing.num_computed_tokens == 1


def test_background_runs_end_at_once_and_disturb_nobody() -> None:
    engine, model, slm_model = make_engine()
    prompt = PROMPTS[0]
    results = {engine.submit(RunRequest("s", 0, prompt, max_tokens=20, shallow=True)): Result()}
    run_id = next(iter(results))
    for _ in range(5):
        collect(engine, results)
    so_far = prompt + results[run_id].tokens
    for request in (
        RunRequest("s", 0, so_far),  # the LLM is caught up
        RunRequest("s", len(so_far), [9], max_tokens=4, background=True),  # somebody writes ahead
    ):
        other = engine.submit(request)
        results[other] = Result()
        collect(engine, results)
        assert results[other].finished.reason is FinishReason.LENGTH
        assert results[other].tokens == []
    with pytest.raises(SessionBusy):
        engine.submit(RunRequest("s", 0, so_far, max_tokens=1))
    while not engine.is_idle:
        collect(engine, results)
    assert results[run_id].tokens == generate(slm_model, prompt, 20)
    written = prompt + results[run_id].tokens
    # Nobody writes now: running ahead is no work and leaves no token; a late catch-up with less drops nothing.
    assert run_one(engine, RunRequest("s", len(written), [9], max_tokens=4, background=True)).tokens == []
    assert run_one(engine, RunRequest("s", 0, so_far)).finished.held == len(written)
    assert run_one(engine, RunRequest("s", len(written), [], max_tokens=5)).tokens == generate(model, written, 5)


def test_a_catch_up_of_other_tokens_replaces_what_is_held() -> None:
    engine, model, _ = make_engine()
    run_one(engine, RunRequest("s", 0, PROMPTS[0], max_tokens=10, shallow=True))
    other = [*PROMPTS[0][:3], 60, 61]
    assert run_one(engine, RunRequest("s", 0, other)).finished.held == 5
    assert run_one(engine, RunRequest("s", 5, [], max_tokens=10)).tokens == generate(model, other, 10)


def test_requests_that_cannot_be_right_are_refused_whoever_sends_them() -> None:
    engine, _, _ = make_engine()
    run_one(engine, RunRequest("s", 0, PROMPTS[0], max_tokens=3, shallow=True))
    for shallow in (True, False):
        with pytest.raises(HeldTooShort) as refusal:
            engine.submit(RunRequest("s", 50, [1], max_tokens=1, shallow=shallow))
        assert refusal.value.held == 8
        with pytest.raises(PrefixMismatch):
            engine.submit(RunRequest("s", 3, [1], max_tokens=1, prefix_checksum=1, shallow=shallow))


def test_sampling_is_the_same_alone_and_among_others() -> None:
    def requests(engine: SharedEngine) -> list[RunRequest]:
        return [
            RunRequest(f"s{i}", 0, prompt, Sampling(0.9, 0.95, seed=i), max_tokens=20, shallow=i % 2 == 0)
            for i, prompt in enumerate(PROMPTS)
        ]

    engine, _, _ = make_engine()
    together = [result.tokens for result in run_all(engine, requests(engine))]
    engine, _, _ = make_engine()
    assert [run_one(engine, request).tokens for request in requests(engine)] == together


def test_the_cache_goes_with_the_engine() -> None:
    engine, _, _ = make_engine()
    run_one(engine, RunRequest("s", 0, PROMPTS[0], max_tokens=2, shallow=True))
    gone = [
        weakref.ref(engine._runner._cache),
        weakref.ref(engine._runner._cache.keys[0]),
        weakref.ref(engine.shared.slm),
    ]
    gc.collect()
    gc.disable()
    try:
        del engine
        assert [reference() for reference in gone] == [None, None, None]
    finally:
        gc.enable()


def test_what_cannot_be_cut_is_refused_by_name() -> None:
    model, _, tail = make_pair()
    for num_layers in (0, 3):
        with pytest.raises(UnsupportedModel, match="choose 1 to 2"):
            share_layers(model, num_layers, tail)
    with pytest.raises(UnsupportedModel, match="`norm`"):
        share_layers(make_model(CONFIGS["gpt_neox"], 1), 1, tail)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("attention", ["native", "in-place", "gather"])
def test_what_is_not_finite_stays_with_its_session(attention: str, bad: float) -> None:
    """Of either role, beside either role, and on its pages when it has left."""
    model, slm, tail = make_pair("llama", 1)
    own, own_tail = copy.deepcopy((model, tail))
    with torch.no_grad():
        own.get_input_embeddings().weight[299, 3] = bad
    limits = Limits(VOCAB_SIZE, CONTEXT_LENGTH, num_pages=16, page_size=8, attention=attention)
    engine = SharedEngine(adopt(own, CONTEXT_LENGTH), share_layers(own, 1, own_tail), limits)
    expected = {shallow: generate(slm if shallow else model, PROMPTS[0], 12) for shallow in (False, True)}
    for shallow in (False, True):
        for max_tokens in (0, 2):
            broken = RunRequest("c", 0, [20, 299, 21], max_tokens=max_tokens, shallow=shallow)
            requests = [RunRequest(f"a{part}", 0, PROMPTS[0], max_tokens=12, shallow=part) for part in (False, True)]
            *others, _ = run_all(engine, [*requests, broken])
            assert [result.tokens for result in others] == [expected[False], expected[True]]
            for name in ("c", "aFalse", "aTrue"):
                engine.close_session(name)
