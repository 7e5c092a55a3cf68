"""`Drain` asks a worker to get no new sessions: it says so, says what is left, and takes it back."""

from __future__ import annotations

from typing import Any

from rstitch.v1 import worker_pb2 as pb
from tests.worker.conftest import StartWorker

PROMPT = [7, 8, 9, 10, 11]


async def test_a_draining_worker_says_so_serves_on_and_counts_what_is_left(start_worker: StartWorker) -> None:
    _, stub = await start_worker(measure_ms=0)
    call: Any = stub.Decode()
    await call.write(pb.DecodeRequest(session_id="s", tokens=PROMPT, max_tokens=1, stop_tokens=[299]))
    while not (await call.read()).HasField("finish"):
        pass
    assert not (await stub.GetInfo(pb.GetInfoRequest())).draining
    said = await stub.Drain(pb.DrainRequest())
    assert (said.num_running, said.num_streams) == (0, 1)
    assert (await stub.GetInfo(pb.GetInfoRequest())).draining
    # Nobody is refused: whoever comes all the same has nowhere else to go.
    assert (await stub.Step(pb.StepRequest(session_id="t", tokens=PROMPT))).held == len(PROMPT)

    await call.done_writing()
    await call.read()
    said = await stub.Drain(pb.DrainRequest())
    assert (said.num_running, said.num_streams) == (0, 0)

    await stub.Drain(pb.DrainRequest(undo=True))
    assert not (await stub.GetInfo(pb.GetInfoRequest())).draining
