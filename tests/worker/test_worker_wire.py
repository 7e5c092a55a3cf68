"""WorkerService through the front door: a real server, a real model, the generated stubs."""

from __future__ import annotations

import asyncio
import math
import threading
import time
import zlib
from array import array
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from model_worker.engine.engine import Engine
from model_worker.engine.forward.runner import Runner
from rstitch.errors import RstitchError
from rstitch.v1 import common_pb2
from rstitch.v1 import worker_pb2 as pb
from tests.support.engines import generate
from tests.support.pairs import CONTEXT_LENGTH, VOCAB_SIZE
from tests.support.worker_calls import decode_once, error_of, read_run
from tests.worker.conftest import StartWorker

PROMPT = [7, 8, 9, 10, 11]


@pytest.fixture(scope="session")
def model(model_folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float64).eval()


async def test_get_info_tells_the_model(start_worker: StartWorker, model_folder: Path) -> None:
    _, stub = await start_worker()
    info = await stub.GetInfo(pb.GetInfoRequest())
    assert info.role == common_pb2.MODEL_SLM
    assert info.vocab_size == VOCAB_SIZE
    assert info.context_length == CONTEXT_LENGTH
    assert info.architecture == "LlamaForCausalLM"
    assert info.hidden_size == 32
    assert info.capacity.num_free_pages == info.capacity.num_pages > 0


async def test_a_run_at_background_priority_decodes_and_counters_count(start_worker: StartWorker, model: Any) -> None:
    _, stub = await start_worker(measure_ms=0)  # else steps that look slow would be chunked
    request = pb.DecodeRequest(
        session_id="s", tokens=PROMPT, max_tokens=8, priority=pb.PRIORITY_BACKGROUND, stop_tokens=[VOCAB_SIZE - 1]
    )
    tokens, finish = await decode_once(stub, request)
    assert tokens == generate(model, PROMPT, 8)
    assert finish.reason == pb.Finish.REASON_LENGTH
    counters = (await stub.GetInfo(pb.GetInfoRequest())).counters
    assert counters.num_steps >= finish.timing.num_steps == 8
    assert counters.num_kept_tokens == 8
    assert counters.forward_us >= finish.timing.forward_us > 0


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"share_device": "/nowhere/at/all"}, "--share-device"),
        ({"batching": "delayed", "measure_ms": 0}, "--batching"),
    ],
)
async def test_a_setting_that_cannot_work_is_named(
    start_worker: StartWorker, settings: dict[str, Any], field: str
) -> None:
    with pytest.raises(RstitchError) as refused:
        await start_worker(**settings)
    assert refused.value.field == field
    assert refused.value.remedy


async def test_the_tokenizer_travels(start_worker: StartWorker, model_folder: Path) -> None:
    from tokenizers import Tokenizer

    _, stub = await start_worker()
    parts = [part async for part in stub.GetTokenizer(pb.GetTokenizerRequest())]
    received = Tokenizer.from_str(b"".join(part.data for part in parts).decode())
    own = AutoTokenizer.from_pretrained(model_folder)
    assert received.encode("the fox, Übermut!").ids == own.encode("the fox, Übermut!")
    assert parts[0].chat_template == own.chat_template
    assert parts[0].special_tokens["eos_token"] == own.eos_token


async def test_a_stream_decodes_as_transformers_does(start_worker: StartWorker, model: Any) -> None:
    _, stub = await start_worker()
    tokens, finish = await decode_once(stub, pb.DecodeRequest(session_id="s", tokens=PROMPT, max_tokens=40))
    assert tokens == generate(model, PROMPT, 40)
    assert finish.held == len(PROMPT) + len(tokens)
    assert finish.timing.num_computed_tokens == len(PROMPT) + len(tokens) - 1


async def test_runs_of_a_stream_follow_one_another(start_worker: StartWorker, model: Any) -> None:
    """Two short runs and a rollback give what one long run gives."""
    _, stub = await start_worker()
    call = stub.Decode()
    await call.write(pb.DecodeRequest(session_id="s", tokens=PROMPT, max_tokens=10))
    first, finish = await read_run(call)
    checksum = zlib.crc32(array("I", PROMPT + first[:5]).tobytes())
    await call.write(
        pb.DecodeRequest(
            session_id="s", position=finish.held - 5, tokens=first[5:], max_tokens=10, prefix_checksum=checksum
        )
    )
    second, _ = await read_run(call)
    assert first + second == generate(model, PROMPT, 20)
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_the_next_request_supersedes_a_run(start_worker: StartWorker, model: Any) -> None:
    _, stub = await start_worker()
    call = stub.Decode()
    await call.write(pb.DecodeRequest(session_id="s", tokens=PROMPT, max_tokens=400))
    head = list((await call.read()).tokens)
    await call.write(pb.DecodeRequest(session_id="s", position=len(PROMPT), max_tokens=12))
    rest, finish = await read_run(call)
    assert finish.reason == pb.Finish.REASON_SUPERSEDED
    assert finish.held == len(PROMPT) + len(head) + len(rest)
    again, finish = await read_run(call)
    assert finish.reason in (pb.Finish.REASON_LENGTH, pb.Finish.REASON_STOP)
    assert again == generate(model, PROMPT, 12)
    call.cancel()


async def test_a_first_token_comes_at_once_and_an_end_with_all_that_waited(
    start_worker: StartWorker, model: Any
) -> None:
    _, stub = await start_worker(flush_ms=3.6e6)
    expected = generate(model, PROMPT, 20)  # before the run: it blocks the loop, which would join both messages
    call = stub.Decode()
    await call.write(pb.DecodeRequest(session_id="s", tokens=PROMPT, max_tokens=20))
    first, rest = await call.read(), await call.read()
    assert list(first.tokens) == expected[:1]
    assert list(rest.tokens) == expected[1:]
    assert rest.finish.held == len(PROMPT) + 20
    await call.write(pb.DecodeRequest(session_id="s", position=len(PROMPT) + 20, max_tokens=CONTEXT_LENGTH // 2))
    first = await call.read()
    await call.write(pb.DecodeRequest(session_id="s", position=len(PROMPT) + 20))
    tokens, finish = await read_run(call)
    assert finish.reason == pb.Finish.REASON_SUPERSEDED
    assert finish.held == len(PROMPT) + 20 + len(first.tokens) + len(tokens), "what was kept is told"
    call.cancel()


async def test_background_catch_up_is_promoted(start_worker: StartWorker, model: Any) -> None:
    _, stub = await start_worker(max_batch_tokens=8)
    prompt = list(range(20, 220))
    call = stub.Decode()
    await call.write(pb.DecodeRequest(session_id="s", tokens=prompt))
    await call.write(pb.DecodeRequest(session_id="s", position=len(prompt), max_tokens=6))
    _, finish = await read_run(call)
    assert finish.held == len(prompt)
    tokens, _ = await read_run(call)
    assert tokens == generate(model, prompt, 6)
    call.cancel()


async def test_cancelling_a_stream_stops_the_work_and_keeps_the_session(start_worker: StartWorker) -> None:
    worker, stub = await start_worker()
    call = stub.Decode()
    await call.write(pb.DecodeRequest(session_id="s", tokens=PROMPT, max_tokens=CONTEXT_LENGTH, stop_tokens=[1]))
    await call.read()
    call.cancel()
    async with asyncio.timeout(10):
        while not await worker.driver.ask(lambda engine: engine.is_idle):  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)
    info = await stub.GetInfo(pb.GetInfoRequest())
    assert (info.capacity.num_runs, info.capacity.num_sessions) == (0, 1)
    closed = await stub.CloseSession(pb.CloseSessionRequest(session_id="s"))
    assert len(PROMPT) < closed.held < CONTEXT_LENGTH
    info = await stub.GetInfo(pb.GetInfoRequest())
    assert info.capacity.num_free_pages == info.capacity.num_pages
    assert (await stub.CloseSession(pb.CloseSessionRequest(session_id="s"))).held == 0


async def test_closing_a_session_ends_its_run(start_worker: StartWorker) -> None:
    _, stub = await start_worker()
    call = stub.Decode()
    await call.write(pb.DecodeRequest(session_id="s", tokens=PROMPT, max_tokens=CONTEXT_LENGTH, stop_tokens=[1]))
    await call.read()
    await stub.CloseSession(pb.CloseSessionRequest(session_id="s"))
    error = await error_of(read_run(call))
    assert (error.code, error.reason) == (grpc.StatusCode.ABORTED, "SESSION_CLOSED")
    assert error.remedy


async def test_a_session_has_one_run_at_a_time_and_others_go_on(start_worker: StartWorker, model: Any) -> None:
    _, stub = await start_worker()
    call = stub.Decode()
    await call.write(pb.DecodeRequest(session_id="s", tokens=PROMPT, max_tokens=400, stop_tokens=[1]))
    await call.read()
    error = await error_of(decode_once(stub, pb.DecodeRequest(session_id="s", tokens=PROMPT, max_tokens=1)))
    assert (error.code, error.reason, error.field) == (grpc.StatusCode.ABORTED, "SESSION_BUSY", "session_id")
    other, _ = await decode_once(stub, pb.DecodeRequest(session_id="other", tokens=PROMPT, max_tokens=8))
    assert other == generate(model, PROMPT, 8)
    call.cancel()


async def test_a_full_cache_refuses_the_youngest_and_says_when_to_try_again(start_worker: StartWorker) -> None:
    _, stub = await start_worker(num_pages=8, page_size=8)
    old = stub.Decode()
    await old.write(pb.DecodeRequest(session_id="old", tokens=PROMPT, max_tokens=50, stop_tokens=[1]))
    await old.read()
    error = await error_of(
        decode_once(stub, pb.DecodeRequest(session_id="young", tokens=list(range(5, 62)), max_tokens=2))
    )
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "NO_CAPACITY")
    assert error.retry_after_s is not None
    _, finish = await read_run(old)
    assert finish.held == len(PROMPT) + 50


async def test_the_queue_time_counts_the_step_that_was_going_on(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, stub = await start_worker()
    arrived = threading.Event()
    submit = worker.driver.submit

    def tell_arrival(*arguments: Any) -> int:
        ticket = submit(*arguments)
        arrived.set()
        return ticket

    def long_forward(engine: Engine) -> None:
        assert arrived.wait(10)
        time.sleep(0.05)

    monkeypatch.setattr(worker.driver, "submit", tell_arrival)
    busy = asyncio.create_task(worker.driver.ask(long_forward))
    response = await stub.Step(pb.StepRequest(session_id="s", tokens=PROMPT))
    await busy
    assert response.timing.queue_us >= 50_000
    assert response.timing.total_us >= response.timing.queue_us + response.timing.forward_us


async def test_a_failed_forward_says_what_to_do_and_is_logged(
    start_worker: StartWorker, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, stub = await start_worker()

    def broken(runner: object, rows: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch, structlog.testing.capture_logs() as logs:
        patch.setattr(Runner, "launch", broken)
        request = pb.DecodeRequest(session_id="s", tokens=PROMPT, max_tokens=8)
        error = await error_of(decode_once(stub, request))
    assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "FORWARD_FAILED")
    assert "out of memory" in error.message
    assert error.remedy
    assert [entry["event"] for entry in logs] == ["forward failed"]
    tokens, _ = await decode_once(stub, request)
    assert tokens == generate(model, PROMPT, 8)


async def test_an_evicted_session_says_what_it_holds(start_worker: StartWorker) -> None:
    _, stub = await start_worker(num_pages=8, page_size=8)
    await stub.Step(pb.StepRequest(session_id="a", tokens=PROMPT))
    await stub.Step(pb.StepRequest(session_id="b", tokens=list(range(5, 67))))
    error = await error_of(stub.Step(pb.StepRequest(session_id="a", position=5, tokens=[1])))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "HELD_TOO_SHORT")
    assert error.metadata["held"] == "0"


async def test_a_signal_travels_with_the_tokens_and_the_proposal(start_worker: StartWorker) -> None:
    _, stub = await start_worker()

    async def run(bound: float) -> tuple[list[float], list[float], pb.Finish]:
        """Of the kept tokens the logprobs and the signal; the end."""
        request = pb.DecodeRequest(session_id="s", tokens=PROMPT, max_tokens=30)
        request.handoff.CopyFrom(pb.Handoff(above=bound, signal=common_pb2.SIGNAL_CONFIDENCE))
        call = stub.Decode()
        await call.write(request)
        responses = [await call.read()]
        while not responses[-1].HasField("finish"):
            responses.append(await call.read())
        call.cancel()
        logprobs = [value for response in responses for value in response.logprobs]
        return logprobs, [value for response in responses for value in response.uncertainties], responses[-1].finish

    logprobs, uncertainties, _ = await run(bound=1)
    assert uncertainties == pytest.approx([1 - math.exp(logprob) for logprob in logprobs], abs=1e-6)
    bound = sorted(uncertainties)[15]
    first = next(index for index, value in enumerate(uncertainties) if value > bound)
    _, kept, finish = await run(bound)
    assert kept == uncertainties[:first]
    assert finish.proposal.uncertainty == uncertainties[first]


async def test_a_draft_is_verified_in_one_step(start_worker: StartWorker, model: Any) -> None:
    _, stub = await start_worker()
    expected = generate(model, PROMPT, 20)
    draft = [*expected[:4], (expected[4] + 1) % VOCAB_SIZE, *expected[5:8]]
    request = pb.DecodeRequest(session_id="s", tokens=PROMPT, max_tokens=20, draft=draft)
    tokens, finish = await decode_once(stub, request)
    assert tokens == expected[:5]
    assert (finish.num_accepted, finish.held, finish.timing.num_steps) == (4, len(PROMPT) + 5, 1)
    assert finish.reason == pb.Finish.REASON_LENGTH
    rest = pb.DecodeRequest(session_id="s", position=finish.held, max_tokens=15, draft=expected[5:])
    tokens, finish = await decode_once(stub, rest)
    assert (tokens, finish.num_accepted) == (expected[5:], 15)


async def test_a_stream_serves_one_session(start_worker: StartWorker) -> None:
    worker, stub = await start_worker()
    call = stub.Decode()
    await call.write(pb.DecodeRequest(session_id="a", tokens=PROMPT, max_tokens=1))
    await read_run(call)
    await call.write(pb.DecodeRequest(session_id="b", tokens=PROMPT, max_tokens=1))
    error = await error_of(read_run(call))
    assert error.field == "session_id"
    await worker.driver.ask(Engine.check_integrity)


async def test_a_question_that_fails_is_the_askers_and_not_the_engines(start_worker: StartWorker) -> None:
    worker, stub = await start_worker()

    def question(engine: Engine) -> None:
        raise AssertionError("the books are wrong")

    with pytest.raises(AssertionError, match="books"):
        await worker.driver.ask(question)
    tokens, _ = await decode_once(stub, pb.DecodeRequest(session_id="s", tokens=PROMPT, max_tokens=3))
    assert len(tokens) == 3
