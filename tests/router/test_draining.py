"""A worker is drained through a router: nothing of anybody is left there, and no token is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from rstitch.errors import RstitchError, from_rpc_error
from rstitch.v1 import router_pb2
from tests.support.asking import Reading, ask_for, check_kept, refused, take, threshold, until
from tests.support.endless import expected
from tests.support.fleets import all_ready, fleet, homes, workers
from tests.support.toy_stack import Stack

ROLES = pytest.mark.parametrize("role", ["slm", "llm"])


def drained(stub: Any, worker_id: str, *, undo: bool = False) -> Any:
    return stub.DrainWorker(router_pb2.DrainWorkerRequest(worker_id=worker_id, undo=undo))


@ROLES
async def test_a_drained_worker_is_empty_in_the_end_and_everywhere(stack: Stack, role: str) -> None:
    await fleet(stack)
    stubs = [await stack.stub(await stack.router()) for _ in range(2)]
    for stub in stubs:
        await all_ready(stub, 4)
    asked = [ask_for(session_id=f"s{n}", policy=threshold(0.5), max_new_tokens=1500) for n in range(6)]
    readings = [await Reading(stubs[n % 2], each).has(5) for n, each in enumerate(asked)]
    leaving = next(each for each in workers(stack, role) if each.num_streams)
    told = [left async for left in drained(stubs[0], leaving.worker_id)]
    assert not any(reading.is_over for reading in readings)
    assert [left.is_empty for left in told] == [False] * (len(told) - 1) + [True]
    assert told[0].num_streams > 0
    assert (told[-1].num_running, told[-1].num_streams) == (0, 0)
    assert leaving.num_streams == 0
    await until(lambda: not leaving.sessions)
    num_requests = len(leaving.requests)
    for number, stub in enumerate(stubs):
        status = await all_ready(stub, 3)
        assert [each.id for each in status.members if each.draining] == [leaving.worker_id]
        await take(stub, ask_for(session_id=f"new{number}", policy=threshold(0.5), max_new_tokens=10))
    assert len(leaving.requests) == num_requests
    answers = await asyncio.gather(*readings)
    assert all((each.tokens, each.authors) == expected(stack, 1500) for each in answers)
    for answer in answers:
        await check_kept(stubs[0], answer)

    undone = [left async for left in drained(stubs[1], leaving.address, undo=True)]
    assert [left.is_empty for left in undone] == [False]
    for stub in stubs:
        await all_ready(stub, 4)


async def test_a_drain_is_known_here_at_once(stack: Stack) -> None:
    await fleet(stack, 2, 1, delay_s=0)
    stub = await stack.stub(await stack.router())
    await all_ready(stub, 3)
    draining = drained(stub, "slm-0")
    await draining.read()
    for number in range(4):
        await take(stub, ask_for(session_id=f"s{number}", policy=threshold(0.5), max_new_tokens=10))
        assert homes(stack.slms, f"s{number}") == [stack.slms[1]]
    draining.cancel()
    assert stack.slm.draining, "who leaves takes it back"


@pytest.mark.parametrize("worker_id", ["slm-7", "x" * 10_000])
async def test_a_worker_that_nobody_knows_is_refused_by_name(stack: Stack, worker_id: str) -> None:
    await fleet(stack, 2, 1)
    stub = await stack.stub(await stack.router())
    await all_ready(stub, 3)
    error = await refused(drained(stub, worker_id))
    assert (error.code, error.reason, error.field) == (grpc.StatusCode.NOT_FOUND, "WORKER_UNKNOWN", "worker_id")
    assert "rstitch status" in str(error)


async def test_a_worker_that_is_gone_or_too_old_says_so(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    await fleet(stack, 2, 1)
    stub = await stack.stub(await stack.router())
    await all_ready(stub, 3)

    async def too_old(request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")

    async def reason() -> str:
        return (await refused(drained(stub, "slm-1"))).reason

    async def told(expected: str) -> bool:
        return await reason() == expected  # until then the connection may be that of before

    old = stack.slms[1]
    await old.stop()
    await until(lambda: told("WORKER_UNAVAILABLE"))
    monkeypatch.setattr(old, "Drain", too_old)
    await old.start()
    await until(lambda: told("WORKER_TOO_OLD"))


async def test_who_takes_it_back_is_not_overruled_by_who_still_waits(stack: Stack) -> None:
    await fleet(stack, 2, 1)
    stubs = [await stack.stub(await stack.router()) for _ in range(2)]
    for stub in stubs:
        await all_ready(stub, 3)
    waiting = aiter(drained(stubs[0], "slm-0"))
    assert not (await anext(waiting)).is_empty
    assert [left.is_empty async for left in drained(stubs[1], "slm-0", undo=True)] == [False]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        assert not [left async for left in waiting if left.is_empty]
    error = from_rpc_error(caught.value)
    assert (error.code, error.reason) == (grpc.StatusCode.ABORTED, "DRAIN_UNDONE")
    assert not stack.slm.draining
    for stub in stubs:
        await all_ready(stub, 3)


async def test_a_worker_that_ends_is_not_taken_back_and_says_why(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    await fleet(stack, 2, 1)
    ending = RstitchError(grpc.StatusCode.FAILED_PRECONDITION, "WORKER_ENDING", "it ends", remedy="Start it again.")

    async def ends(request: Any, context: Any) -> None:
        raise ending

    await stack.slm.stop()
    monkeypatch.setattr(stack.slm, "Drain", ends)
    await stack.slm.start()
    stub = await stack.stub(await stack.router())
    await all_ready(stub, 3)
    error = await refused(drained(stub, "slm-0", undo=True))
    assert (error.code, error.reason) == (ending.code, ending.reason)
    assert error.remedy == ending.remedy
