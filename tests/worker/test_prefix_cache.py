"""Shared prefixes on a worker's wire: cached tokens, salts, ForkSession and what it refuses."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rstitch.v1 import common_pb2
from rstitch.v1 import worker_pb2 as pb
from tests.support.engines import generate
from tests.support.worker_calls import decode_once, error_of
from tests.worker.conftest import StartWorker

PROMPT = list(range(20, 60))  # two and a half pages


@pytest.fixture(scope="session")
def model(model_folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float64).eval()


@pytest.mark.parametrize("mode", ["share", "copy", "off"])
async def test_a_second_answer_to_a_prompt_says_what_it_did_not_compute(
    start_worker: StartWorker, model: Any, mode: str
) -> None:
    _, stub = await start_worker(num_pages=64, measure_ms=0, prefix_cache=mode)
    cached = []
    for name, salt in (("a", ""), ("b", ""), ("c", "tenant"), ("d", "tenant")):
        request = pb.DecodeRequest(session_id=name, tokens=PROMPT, max_tokens=8, cache_salt=salt)
        tokens, finish = await decode_once(stub, request)
        assert tokens == generate(model, PROMPT, 8)
        assert finish.timing.num_computed_tokens + finish.timing.num_cached_tokens == len(PROMPT) + 7
        cached.append(finish.timing.num_cached_tokens)
    assert cached == ([0] * 4 if mode == "off" else [0, 32, 0, 32])
    info = await stub.GetInfo(pb.GetInfoRequest())
    assert info.counters.num_cached_tokens == sum(cached)
    assert info.counters.num_cache_hits == sum(tokens > 0 for tokens in cached)
    assert info.capacity.num_shared_pages == (4 if mode == "share" else 0)
    for name in "abcd":
        await stub.CloseSession(pb.CloseSessionRequest(session_id=name))
    capacity = (await stub.GetInfo(pb.GetInfoRequest())).capacity
    assert capacity.num_free_pages == capacity.num_pages
    assert (capacity.num_cached_pages > 0) == (mode != "off")


async def test_samples_that_come_together_compute_their_prompt_once(start_worker: StartWorker) -> None:
    _, stub = await start_worker(num_pages=64, measure_ms=0)
    before = (await stub.GetInfo(pb.GetInfoRequest())).counters.num_computed_tokens
    requests = [
        pb.DecodeRequest(
            session_id=f"s{seed}",
            tokens=PROMPT,
            max_tokens=6,
            sampling=common_pb2.Sampling(temperature=1.0, seed=seed),
            stop_tokens=[299],
        )
        for seed in range(8)
    ]
    answers = await asyncio.gather(*(decode_once(stub, request) for request in requests))
    assert len({tuple(tokens) for tokens, _ in answers}) > 1
    after = (await stub.GetInfo(pb.GetInfoRequest())).counters.num_computed_tokens
    own = sum(len(tokens) - 1 for tokens, _ in answers)
    assert after - before - own == 32 + 8 * (len(PROMPT) - 32)


@pytest.mark.parametrize("mode", ["share", "copy", "off"])
async def test_a_fork_goes_on_without_its_prompt(start_worker: StartWorker, model: Any, mode: str) -> None:
    _, stub = await start_worker(num_pages=64, measure_ms=0, prefix_cache=mode)
    await decode_once(stub, pb.DecodeRequest(session_id="a", tokens=PROMPT, max_tokens=8, cache_salt="t"))
    fork = pb.ForkSessionRequest(source_session_id="a", session_id="b", position=len(PROMPT), cache_salt="t")
    for _ in range(2):  # repeatable
        reply = await stub.ForkSession(fork)
        assert (reply.held, reply.num_cached_tokens) == (len(PROMPT), len(PROMPT))
    request = pb.DecodeRequest(session_id="b", position=len(PROMPT), max_tokens=8, cache_salt="t")
    tokens, finish = await decode_once(stub, request)
    assert tokens == generate(model, PROMPT, 8)
    assert finish.timing.num_computed_tokens == 8, "its own tokens, the last of the prompt and not the last of its own"


async def test_a_fork_that_cannot_be_says_why(start_worker: StartWorker) -> None:
    _, stub = await start_worker(num_pages=64, measure_ms=0)
    await stub.Step(pb.StepRequest(session_id="a", tokens=PROMPT, cache_salt="t"))
    good = {"source_session_id": "a", "session_id": "b", "position": 5, "cache_salt": "t"}
    for change, code, reason, field in (
        ({"source_session_id": "x"}, "NOT_FOUND", "SESSION_UNKNOWN", "source_session_id"),
        ({"position": 41}, "FAILED_PRECONDITION", "HELD_TOO_SHORT", "position"),
        ({"cache_salt": "other"}, "FAILED_PRECONDITION", "SALT_MISMATCH", "cache_salt"),
        ({"position": 0}, "INVALID_ARGUMENT", "INVALID_FIELD", "position"),
        ({"session_id": "a"}, "INVALID_ARGUMENT", "INVALID_FIELD", "session_id"),
        ({"session_id": ""}, "INVALID_ARGUMENT", "INVALID_FIELD", "session_id"),
        ({"source_session_id": ""}, "INVALID_ARGUMENT", "INVALID_FIELD", "source_session_id"),
        ({"cache_salt": "x" * 129}, "INVALID_ARGUMENT", "INVALID_FIELD", "cache_salt"),
    ):
        error = await error_of(stub.ForkSession(pb.ForkSessionRequest(**(good | change))))
        assert (error.code.name, error.reason, error.field) == (code, reason, field)
        assert error.remedy
    assert (await stub.GetInfo(pb.GetInfoRequest())).capacity.num_sessions == 1
    error = await error_of(stub.Step(pb.StepRequest(session_id="s", tokens=PROMPT, cache_salt="x" * 129)))
    assert (error.code.name, error.field) == ("INVALID_ARGUMENT", "cache_salt")
