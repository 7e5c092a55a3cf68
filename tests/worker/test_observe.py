"""Observing on a worker's wire: it is what Decode reports of the same tokens, streamed, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack, aclosing, suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import grpc
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from model_worker import main, service
from model_worker.driver import Sink
from model_worker.engine.observing import MAX_OBSERVED, Observe, Observed
from model_worker.engine.types import FinishReason, RunFinished, RunRequest, Timing
from model_worker.observing import observed
from model_worker.outbox import Piece
from rstitch.service import semconv
from rstitch.v1 import worker_pb2 as pb
from tests.support.engines import failing_forward
from tests.support.heads import random_head
from tests.support.observing import along
from tests.support.pairs import CONTEXT_LENGTH, VOCAB_SIZE
from tests.support.spans import named, recording
from tests.support.worker_calls import decode_once, error_of
from tests.worker.conftest import StartWorker

PROMPT = [7, 8, 9, 10, 11]
NO_STOP = [VOCAB_SIZE - 1]
LOST = RuntimeError("lost")
LENGTH, STEP = FinishReason.LENGTH, FinishReason.STEP
TEXT = [5 + place * place % 280 for place in range(400)]
ABOVE = 0.2


async def observe(stub: Any, tokens: Sequence[int], start: int = 1, above: float = -1.0, **fields: Any) -> list[Any]:
    """The consultations, once the messages are of the right sizes and nothing is missing."""
    request = pb.ObserveRequest(tokens=tokens, start=start, above=above, **fields)
    sizes, told = [], []
    async for response in stub.Observe(request):
        sizes.append(response.num_positions)
        told += response.consultations
    assert sum(sizes) == len(tokens) - start
    assert all(64 <= size <= 256 for size in sizes[:-1])
    assert 0 < sizes[-1] <= 256
    positions = [each.position for each in told]
    assert positions == sorted(set(positions))
    return told


@pytest.fixture(scope="module")
def model(model_folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()


async def test_it_is_what_transformers_say_and_a_stream(start_worker: StartWorker, model: Any) -> None:
    _, stub = await start_worker(dtype="float32", measure_ms=0)
    for start, above, masked in (1, -1.0, ()), (200, ABOVE, (5, 6, 7)), (399, -1.0, ()), (1, 2.0, ()):
        told = await observe(stub, TEXT, start, above, masked_tokens=masked)
        expected = along(model, TEXT, start, masked)
        assert [each.position for each in told] == expected.above(above)
        for each in told:
            place = each.position - start
            assert each.context_length == each.position
            assert each.proposal == expected.tokens[place]
            assert each.entropy == pytest.approx(float(expected.entropies[place]), abs=1e-5)
            hidden = np.frombuffer(each.hidden_state, "<f2").astype(np.float32)
            np.testing.assert_allclose(hidden, expected.hidden[place].numpy(), rtol=2e-3, atol=1e-3)
            assert not each.features
            assert (each.probability, each.to_llm) == (0, False)


@pytest.mark.parametrize("settings", [{"batch_invariant": True}, {"max_batch_tokens": 40}, {"prefix_cache": "off"}])
async def test_it_is_what_decode_reports_of_the_same_tokens(
    start_worker: StartWorker, settings: dict[str, Any]
) -> None:
    """To the last bit where batches make no difference."""
    _, stub = await start_worker(dtype="float32", measure_ms=0, **settings)
    await stub.PutHead(pb.PutHeadRequest(name="x", data=random_head(32, bias=-1e6).data))
    handoff = pb.Handoff(above=ABOVE, head="x", terms=pb.HeadTerms(position=5, report=True))
    request = pb.DecodeRequest(session_id="s", tokens=PROMPT, max_tokens=80, stop_tokens=NO_STOP, handoff=handoff)
    tokens, reported = list(PROMPT), []
    call = stub.Decode()
    await call.write(request)
    await call.done_writing()
    async for response in call:
        tokens += response.tokens
        reported += response.consultations
    first, *others = await asyncio.gather(*(observe(stub, tokens, len(PROMPT), ABOVE) for _ in range(3)))
    assert len(reported) > 10
    assert [each.position for each in first] == [each.position for each in reported]
    for one, other in zip(first, reported, strict=True):
        assert (one.proposal, one.context_length) == (other.proposal, other.context_length)
        if "batch_invariant" in settings:
            assert (one.hidden_state, one.entropy) == (other.hidden_state, other.entropy)
        assert one.entropy == pytest.approx(other.entropy, abs=1e-6)
        hidden, expected = (np.frombuffer(each.hidden_state, "<f2").astype(np.float32) for each in (one, other))
        np.testing.assert_allclose(hidden, expected, rtol=2e-3, atol=1e-3)
    if "batch_invariant" in settings:
        assert others == [first, first]


async def until_alone(stub: Any) -> None:
    """Until the worker has seen that the others have left."""
    async with asyncio.timeout(30):
        while await sessions(stub) > 1:
            await asyncio.to_thread(time.sleep, 0.01)


async def sessions(stub: Any) -> int:
    return int((await stub.GetInfo(pb.GetInfoRequest())).capacity.num_sessions)


async def test_many_at_once_some_of_which_leave(start_worker: StartWorker, model: Any) -> None:
    """Beside one who decodes, and who gets its own tokens."""
    _, stub = await start_worker(max_batch_tokens=64)
    decode = pb.DecodeRequest(session_id="s", tokens=PROMPT, max_tokens=100, stop_tokens=NO_STOP)
    alone, _ = await decode_once(stub, decode)
    decoding = asyncio.ensure_future(decode_once(stub, decode))

    async def leave(number: int) -> None:
        call = stub.Observe(pb.ObserveRequest(tokens=TEXT, start=1, above=-1))
        if number % 2:
            await call.read()
        call.cancel()
        with suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
            await call.read()

    texts = [TEXT[number : number + 60] for number in range(16)]
    *results, _ = await asyncio.gather(
        *(observe(stub, text) for text in texts), asyncio.gather(*(leave(number) for number in range(6)))
    )
    for text, told in zip(texts, results, strict=True):
        assert [each.proposal for each in told] == along(model.double(), text).tokens
    model.float()
    assert (await decoding)[0] == alone
    await until_alone(stub)


@pytest.mark.parametrize("evicted", [False, True])
async def test_it_looks_only_so_far_ahead_of_who_reads(start_worker: StartWorker, evicted: bool) -> None:
    """And goes on behind what was read, also if the session made room for others in between."""
    worker, stub = await start_worker(dtype="float32", measure_ms=0, max_batch_tokens=64)
    driver, text = worker.driver, [5 + place * place % 280 for place in range(CONTEXT_LENGTH)]
    expected = await observe(stub, text)
    found: list[tuple[int, int]] = []
    most = 0
    async with aclosing(observed(driver, RunRequest("", 0, text[:-1], observe=Observe(1, -1.0)))) as events:
        async for event in events:
            found += zip(event.positions, event.tokens, strict=True)
            while not await driver.ask(lambda engine: engine.is_idle):
                pass
            held = await driver.ask(lambda engine: {each.session_id: each.held for each in table_of(engine)})
            assert sum(held.values()) < found[0][0] + len(found) + 2 * MAX_OBSERVED
            most = max(most, *held.values(), 0)
            if evicted and held:
                evicted = False
                await driver.close_session(*held)
    assert found == [(each.position, each.proposal) for each in expected]
    assert most == len(text) - 1


class Scripted:
    """A driver whose engine finds no room in the background."""

    def __init__(self) -> None:
        self.runs: list[RunRequest] = []
        self.gone: list[object] = []

    def submit(self, run: RunRequest, sink: Sink) -> int:
        assert run.observe is not None
        self.runs.append(run)
        ticket, start = len(self.runs), run.observe.start
        sink(ticket, Piece(observed=[Observed(1, 3), Observed(1, 4, (start + 5,), (7,), (0.5,), bytes(4))]))
        sink(ticket, Piece(end=RunFinished(1, LENGTH if run.background else STEP, 9, Timing())))
        return ticket

    def cancel(self, ticket: int) -> None:
        self.gone.append(ticket)

    def drop_session(self, session_id: str) -> None:
        self.gone.append(session_id)


async def test_where_pages_run_short_the_rest_is_asked_for_as_any_run_is() -> None:
    driver = Scripted()
    run = RunRequest("", 0, TEXT[:20], observe=Observe(4, 0.1))
    events = [event async for event in observed(driver, run)]  # type: ignore[arg-type]
    assert [position for event in events for position in event.positions] == [9, 16]
    assert [(each.background, each.observe) for each in driver.runs] == [
        (True, Observe(4, 0.1)),
        (False, Observe(11, 0.1)),
    ]
    first, second = driver.runs
    assert first.session_id == second.session_id
    assert driver.gone == [2, first.session_id]


@pytest.mark.parametrize(
    ("request_", "code", "field"),
    [
        (pb.ObserveRequest(tokens=[5], start=1), "INVALID_ARGUMENT", "tokens"),
        (pb.ObserveRequest(tokens=[5, VOCAB_SIZE], start=1), "INVALID_ARGUMENT", "tokens"),
        (pb.ObserveRequest(tokens=[5] * (CONTEXT_LENGTH + 1), start=1), "OUT_OF_RANGE", "tokens"),
        (pb.ObserveRequest(tokens=PROMPT), "INVALID_ARGUMENT", "start"),
        (pb.ObserveRequest(tokens=PROMPT, start=5), "INVALID_ARGUMENT", "start"),
        (pb.ObserveRequest(tokens=PROMPT, start=1, above=2.5), "INVALID_ARGUMENT", "above"),
        (pb.ObserveRequest(tokens=PROMPT, start=1, above=float("nan")), "INVALID_ARGUMENT", "above"),
        (pb.ObserveRequest(tokens=PROMPT, start=1, cache_salt="x" * 129), "INVALID_ARGUMENT", "cache_salt"),
        (pb.ObserveRequest(tokens=PROMPT, start=1, masked_tokens=[VOCAB_SIZE]), "INVALID_ARGUMENT", "masked_tokens"),
        (
            pb.ObserveRequest(tokens=PROMPT, start=1, masked_tokens=range(VOCAB_SIZE - 1)),
            "INVALID_ARGUMENT",
            "masked_tokens",
        ),
    ],
)
async def test_what_cannot_be_observed_is_refused_by_name(
    start_worker: StartWorker, request_: pb.ObserveRequest, code: str, field: str
) -> None:
    _, stub = await start_worker(measure_ms=0, num_pages=64)
    error = await error_of(stub.Observe(request_).read())
    assert (error.code.name, error.field) == (code, field)
    assert error.remedy
    assert await sessions(stub) == 0


async def test_what_was_observed_is_a_span_with_where_its_time_went(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below the caller's own span; also where the forward fails."""
    telemetry, exporter = recording()
    monkeypatch.setattr(main, "setup_telemetry", lambda *_: telemetry)
    monkeypatch.setattr(service, "_log", Mock())
    worker, stub = await start_worker(measure_ms=0)
    told = await observe(stub, TEXT, 100, ABOVE)
    broken = ExitStack()
    await worker.driver.ask(lambda engine: broken.enter_context(failing_forward(model_of(engine), LOST)))
    with broken:
        await error_of(observe(stub, TEXT))
    whole, failed = named(exporter, "worker.observe")
    calls = named(exporter, "rstitch.v1.WorkerService/Observe")
    assert whole.parent is not None
    assert whole.parent.span_id == calls[0].context.span_id
    said = dict(whole.attributes or {})
    assert said.pop(semconv.RSTITCH_RUN_FORWARD_US) > 0
    assert semconv.RSTITCH_RUN_QUEUE_US in said
    del said[semconv.RSTITCH_RUN_QUEUE_US]
    assert said == {
        semconv.RSTITCH_OBSERVE_POSITION: 100,
        semconv.RSTITCH_OBSERVE_NUM_POSITIONS: 300,
        semconv.RSTITCH_OBSERVE_NUM_TOLD: len(told),
        semconv.RSTITCH_RUN_NUM_TOKENS: 399,
        semconv.RSTITCH_RUN_NUM_CACHED_TOKENS: 0,
    }
    assert (whole.status.is_ok, failed.status.is_ok) == (True, False)


async def test_the_longest_text_fits(start_worker: StartWorker) -> None:
    _, stub = await start_worker(measure_ms=0)
    text = [5 + place % 90 for place in range(CONTEXT_LENGTH)]
    assert len(await observe(stub, text)) == CONTEXT_LENGTH - 1


async def test_a_forward_that_fails_is_told(start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, stub = await start_worker(measure_ms=0)
    monkeypatch.setattr(service, "_log", Mock())
    broken = ExitStack()
    await worker.driver.ask(lambda engine: broken.enter_context(failing_forward(model_of(engine), LOST)))
    with broken:
        assert (await error_of(observe(stub, TEXT))).reason == "FORWARD_FAILED"
    assert await sessions(stub) == 0
    assert len(await observe(stub, TEXT[:9])) == 8


def table_of(engine: Any) -> Any:
    return engine._table


def model_of(engine: Any) -> Any:
    return engine._runner._loaded.module
