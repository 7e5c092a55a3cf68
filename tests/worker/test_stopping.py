"""A stream that is cancelled frees its worker within one step: counted in steps, whatever it was doing."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from model_worker.engine.engine import Engine
from model_worker.engine.flight import Flight
from rstitch.v1 import worker_pb2 as pb
from tests.support.asking import until
from tests.support.worker_calls import decode_once
from tests.worker.conftest import StartWorker

PROMPT = [7, 8, 9, 10, 11]


class Gate:
    """Lets an engine's steps through one by one, and notes whose rows each has."""

    def __init__(self, engine: Engine) -> None:
        self.steps: list[list[str]] = []
        self.num_begun = 0  # one more than `steps` while one is held back
        self._launch = engine.launch
        self._permits = threading.Semaphore(0)
        engine.launch = self._gated  # type: ignore[method-assign]

    def let(self, num: int) -> None:
        for _ in range(num):
            self._permits.release()

    def _gated(self) -> Flight:
        self.num_begun += 1
        self._permits.acquire()
        flight = self._launch()
        self.steps.append([row.run.session.session_id for row in flight.rows])
        return flight


WAYS = {
    "decoding": pb.DecodeRequest(tokens=PROMPT, max_tokens=400, stop_tokens=[299]),
    "reading a prompt": pb.DecodeRequest(tokens=PROMPT * 60, max_tokens=1),
    "catching up": pb.DecodeRequest(tokens=PROMPT * 60),
    "running ahead": pb.DecodeRequest(
        tokens=PROMPT, max_tokens=400, stop_tokens=[299], priority=pb.PRIORITY_BACKGROUND
    ),
    "verifying a draft": pb.DecodeRequest(tokens=PROMPT * 50, draft=[5, 6, 7], max_tokens=4, stop_tokens=[299]),
}


@pytest.mark.parametrize("request_", WAYS.values(), ids=WAYS)
async def test_a_cancelled_stream_has_no_row_in_the_next_step(start_worker: StartWorker, request_: Any) -> None:
    worker, made = await start_worker(max_batch_tokens=16, batching="eager")
    stub: Any = made
    engine: Engine = await worker.driver.ask(lambda engine: engine)
    gate = Gate(engine)
    request = pb.DecodeRequest()
    request.CopyFrom(request_)
    request.session_id = "left"
    try:
        call: Any = stub.Decode()
        await call.write(request)
        gate.let(2)
        await until(lambda: gate.num_begun == 3)
        assert "left" in gate.steps[-1], "it is in the middle of its work"
        call.cancel()
        # The engine's thread is about to take a step, and knows nothing yet.
        await until(lambda: not worker.driver._commands.empty())
        gate.let(1)
        await until(lambda: len(gate.steps) == 3)
    finally:
        gate.let(100_000)
    asked = pb.DecodeRequest(session_id="stays", tokens=PROMPT, max_tokens=5, stop_tokens=[299])
    tokens, _ = await decode_once(stub, asked)
    assert len(tokens) == 5
    assert all("left" not in step for step in gate.steps[3:])
    # What it held is as if nothing had been, for whoever goes on.
    asked.session_id = "left"
    assert (await decode_once(stub, asked))[0] == tokens
