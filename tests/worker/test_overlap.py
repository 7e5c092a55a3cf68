"""What a step left is sent while the device computes the next one, and nothing is lost on the way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from model_worker.driver import EngineDriver
from model_worker.engine.bookkeeping.runs import Row
from model_worker.engine.engine import Engine
from model_worker.engine.errors import ForwardFailed, SessionClosed
from model_worker.engine.types import FinishReason, Handoff, RunFailed, RunRequest, Sampling
from model_worker.outbox import Piece
from rstitch.v1 import worker_pb2 as pb
from tests.support.deferred import DeferredRunner, defer, device_of
from tests.support.driving import driving
from tests.support.engines import generate, make_engine
from tests.worker.conftest import StartWorker

PROMPTS = [[7, 8, 9, 10, 11], [20, 21, 22] * 9, [50], [5, 250, 17, 130]]
_PATIENCE_S = 60


@pytest.fixture(autouse=True)
def _deferred(monkeypatch: pytest.MonkeyPatch) -> None:
    defer(monkeypatch)


class Gate:
    """Holds the device back in one of its steps until it is opened, and says when that is reached.

    After an `error` the step fails.
    """

    def __init__(self, device: DeferredRunner, step: int, error: Exception | None = None) -> None:
        self.reached = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._open = threading.Event()
        self._left = step
        self._error = error
        device.before = self._before

    def open(self) -> None:
        self._open.set()

    def _before(self, rows: Sequence[Row]) -> None:
        if rows[0].run.session.session_id == "trial":
            return
        self._left -= 1
        if self._left == 0:
            self._loop.call_soon_threadsafe(self.reached.set)
            assert self._open.wait(_PATIENCE_S), "the gate was never opened"
            if self._error is not None:
                raise self._error


class Sink:
    """Collects what comes of a run."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.end: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def __call__(self, ticket: int, piece: Piece) -> None:
        self.tokens += piece.tokens
        if piece.end is not None:
            self.end.set_result(piece.end)


async def test_a_token_is_sent_while_the_device_computes_the_next() -> None:
    """The device does not begin a step before the tokens of the last are with their caller."""
    engine, model = make_engine()
    arrived = threading.Semaphore(0)
    steps: list[int] = []

    def before(rows: Sequence[Row]) -> None:
        if rows[0].run.session.session_id == "trial":
            return
        if steps:
            assert arrived.acquire(timeout=_PATIENCE_S), "the token waits for the end of the next step"
        steps.append(len(rows))

    device_of(engine).before = before
    async with driving(engine) as (driver, _):
        sink = Sink()

        def heard(ticket: int, piece: Piece) -> None:
            sink(ticket, piece)
            arrived.release(len(piece.tokens))

        driver.submit(RunRequest("s", 0, PROMPTS[0], max_tokens=6), heard)
        finished = await sink.end
    assert sink.tokens == generate(model, PROMPTS[0], 6)
    assert steps == [1] * 6
    timing = finished.timing
    assert (timing.num_steps, timing.num_computed_tokens) == (6, len(PROMPTS[0]) + 5)
    parts = timing.queue_us + timing.forward_us + timing.host_us + timing.wait_us
    assert abs(parts - timing.total_us) <= timing.num_steps + 2  # microseconds, each part rounded down


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.9, top_p=0.9, seed=3)])
@pytest.mark.parametrize("signal", [None, Handoff(below=1.0), Handoff(above=0.6)])
async def test_overlap_changes_no_token(
    monkeypatch: pytest.MonkeyPatch, signal: Handoff | None, sampling: Sampling
) -> None:
    """Sessions that hand over, come back and go on, beside one another."""
    overlapping, _ = make_engine()
    monkeypatch.undo()
    plain, _ = make_engine()
    assert (overlapping.overlaps, plain.overlaps) == (True, False)
    written = []
    for engine in (overlapping, plain):
        async with driving(engine) as (_, run):

            async def session(index: int, run: Any = run) -> list[Any]:
                kept, told = list(PROMPTS[index]), []
                for turn in range(5):
                    position, new = (len(kept), []) if turn else (0, list(kept))
                    request = RunRequest(f"s{index}", position, new, sampling, max_tokens=4, handoff=signal)
                    tokens, finished = await run(request)
                    kept += tokens
                    told.append((tokens, finished.reason, finished.held))
                    if finished.reason is FinishReason.STOP:
                        break
                    if finished.proposal is not None:  # the other model's token is what this one proposed
                        request = RunRequest(f"s{index}", len(kept), [finished.proposal.token])
                        await run(request)
                        kept.append(finished.proposal.token)
                return told

            written.append(await asyncio.gather(*(session(index) for index in range(len(PROMPTS)))))
    assert written[0] == written[1]


async def test_a_run_that_is_superseded_in_flight_keeps_what_the_flight_brings() -> None:
    engine, model = make_engine()
    gate = Gate(device_of(engine), step=4)
    expected = generate(model, PROMPTS[0], 12)
    async with driving(engine) as (driver, run):
        sink = Sink()
        ticket = driver.submit(RunRequest("s", 0, PROMPTS[0], max_tokens=50), sink)
        await gate.reached.wait()
        driver.supersede(ticket)
        rest = asyncio.create_task(run(RunRequest("s", len(PROMPTS[0]) + 4, [], max_tokens=8)))
        await asyncio.sleep(0)  # the run is posted
        gate.open()
        finished = await sink.end
        assert (finished.reason, finished.held) == (FinishReason.SUPERSEDED, len(PROMPTS[0]) + 4)
        assert sink.tokens == expected[:4]
        assert finished.timing.num_steps == 4
        assert (await rest)[0] == expected[4:]


async def test_a_session_that_is_closed_in_flight_tells_its_tokens_first() -> None:
    engine, model = make_engine()
    gate = Gate(device_of(engine), step=3)
    async with driving(engine) as (driver, _):
        sink = Sink()
        driver.submit(RunRequest("s", 0, PROMPTS[0], max_tokens=50), sink)
        await gate.reached.wait()
        closing = asyncio.create_task(driver.close_session("s"))
        await asyncio.sleep(0)
        gate.open()
        assert await closing == len(PROMPTS[0]) + 3
        failed = await sink.end
        assert isinstance(failed.error, SessionClosed)
        assert sink.tokens == generate(model, PROMPTS[0], 3)
        assert await driver.ask(lambda engine: engine.capacity.num_free_pages) == engine.limits.num_pages


async def test_a_run_that_is_cancelled_in_flight_is_heard_of_no_more() -> None:
    engine, model = make_engine()
    gate = Gate(device_of(engine), step=3)
    async with driving(engine) as (driver, run):
        sink = Sink()
        ticket = driver.submit(RunRequest("s", 0, PROMPTS[0], max_tokens=50), sink)
        await gate.reached.wait()
        heard = list(sink.tokens)
        driver.cancel(ticket)
        gate.open()
        counters = await driver.ask(lambda engine: engine.counters)
        assert (counters.num_steps, counters.num_kept_tokens) == (3, 3)  # the answer to a question counts the flight
        assert sink.tokens == heard
        assert not sink.end.done()
        tokens, _ = await run(RunRequest("s", len(PROMPTS[0]), [], max_tokens=5))
        assert tokens == generate(model, PROMPTS[0], 5)


async def test_an_error_that_comes_at_the_end_fails_the_runs_of_its_step() -> None:
    """Which keep what they had been told; a run that comes meanwhile, and the session itself, go on."""
    engine, model = make_engine()
    gate = Gate(device_of(engine), step=3, error=RuntimeError("out of memory"))
    async with driving(engine) as (driver, run):
        sink = Sink()
        driver.submit(RunRequest("s", 0, PROMPTS[0], max_tokens=50), sink)
        await gate.reached.wait()
        other = asyncio.create_task(run(RunRequest("other", 0, PROMPTS[1], max_tokens=6)))
        await asyncio.sleep(0)
        gate.open()
        failed = await sink.end
        assert isinstance(failed, RunFailed)
        assert isinstance(failed.error, ForwardFailed)
        assert sink.tokens == generate(model, PROMPTS[0], 2)
        assert (await other)[0] == generate(model, PROMPTS[1], 6)
        tokens, _ = await run(RunRequest("s", len(PROMPTS[0]) + 2, [], max_tokens=4))
        assert tokens == generate(model, PROMPTS[0], 6)[2:]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_device_that_is_lost_in_flight_ends_the_thread_after_what_is_true_was_told() -> None:
    engine, model = make_engine()
    fatal: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    told: list[int] = []
    sink = Sink()

    def on_fatal(error: BaseException) -> None:
        told.extend(sink.tokens)
        fatal.set_result(error)

    def before(rows: Sequence[Row]) -> None:
        if len(rows[0].run.session.tokens) == len(PROMPTS[0]) + 2:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    device_of(engine).before = before
    driver = EngineDriver(engine, on_fatal)
    driver.start()
    driver.submit(RunRequest("s", 0, PROMPTS[0], max_tokens=50), sink)
    assert isinstance(await fatal, torch.AcceleratorError)
    await driver.stop()
    assert told == generate(model, PROMPTS[0], 2)
    assert not sink.end.done()


async def test_a_worker_with_such_a_device_serves_what_transformers_writes(start_worker: StartWorker) -> None:
    worker, stub = await start_worker()
    model = worker.driver._engine._runner._loaded.module
    assert worker.driver._engine.overlaps

    async def decode(index: int) -> tuple[list[int], pb.Finish]:
        request = pb.DecodeRequest(session_id=f"s{index}", tokens=PROMPTS[index], max_tokens=7)
        tokens: list[int] = []
        async for response in stub.Decode(iter([request])):
            tokens += response.tokens
            if response.HasField("finish"):
                return tokens, response.finish
        raise AssertionError("the stream ended without a finish")

    answers = await asyncio.gather(*(decode(index) for index in range(len(PROMPTS))))
    info = await stub.GetInfo(pb.GetInfoRequest())
    assert info.counters.num_kept_tokens == 7 * len(PROMPTS)
    assert info.counters.num_computed_tokens == sum(finish.timing.num_computed_tokens for _, finish in answers)
    await worker.driver.ask(Engine.check_integrity)
    model.set_attn_implementation("eager")
    for prompt, (tokens, finish) in zip(PROMPTS, answers, strict=True):
        assert tokens == generate(model, prompt, 7)
        assert finish.held == len(prompt) + 7
