"""A question for a new session alone: of all who ask it at once, one gets the session, and the others hear of it."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from rstitch.errors import RstitchError
from rstitch.v1 import router_pb2
from tests.support.asking import Answer, Reading, ask_for, refused, stored, take, threshold, until
from tests.support.endless import at_once, endless
from tests.support.toy_stack import Stack


def new(**fields: Any) -> router_pb2.GenerateRequest:
    return ask_for(**{"session_id": "s", "only_if_new": True, "policy": threshold(0.5), "max_new_tokens": 8, **fields})


def exists(error: RstitchError | None) -> bool:
    assert error is not None
    assert (error.code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS, "SESSION_EXISTS")
    assert (error.field, error.metadata["session_id"]) == ("session_id", "s")
    assert "resume_from" in (error.remedy or "")
    return True


@pytest.mark.parametrize("num_routers", [1, 2])
async def test_one_of_many_who_ask_at_once_begins_it(stack: Stack, num_routers: int) -> None:
    stubs = [await stack.stub(await stack.router()) for _ in range(num_routers)]
    told = await asyncio.gather(*(take(stub, new()) for stub in stubs * 10))
    begun = [answer for answer in told if answer.error is None]
    assert len(begun) == 1
    assert all(exists(answer.error) for answer in told if answer is not begun[0])
    for stub in stubs:
        read = await take(stub, router_pb2.GenerateRequest(session_id="s", resume_from=0))
        assert (read.error, read.tokens) == (None, begun[0].tokens)
    assert [segment.source for segment in (await stored(stubs[0], "s")).segments].count(router_pb2.SOURCE_PROMPT) == 1


async def test_a_session_is_not_new_whatever_its_state(stack: Stack) -> None:
    endless(stack, delay_s=0)
    at_once(stack, 8)
    first, second = await stack.router(lease_s=30), await stack.router()
    stubs = await stack.stub(first), await stack.stub(second)

    async def all_say_so() -> bool:
        return all([exists(await refused(stub.Generate(new()))) for stub in stubs])

    reading = await Reading(stubs[0], new(max_new_tokens=30)).has(3)
    assert await all_say_so()
    await stubs[0].CancelGeneration(router_pb2.CancelGenerationRequest(session_id="s"))
    await reading
    assert (await stored(stubs[0], "s")).state == router_pb2.TRAJECTORY_STATE_INTERRUPTED
    assert await all_say_so()
    await take(stubs[1], ask_for(session_id="s", policy=threshold(1.0), max_new_tokens=2))
    assert (await stored(stubs[0], "s")).state == router_pb2.TRAJECTORY_STATE_FINISHED
    assert await all_say_so()
    await stubs[0].DeleteTrajectory(router_pb2.DeleteTrajectoryRequest(session_id="s"))
    assert (await take(stubs[1], new(max_new_tokens=2))).error is None


async def test_the_claim_decides_where_nobody_saw_the_other(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, fast = await stack.router(), await stack.router()
    stub, other = await stack.stub(slow), await stack.stub(fast)
    inner, won = slow.store.claim, list[Answer]()

    async def claim(*arguments: Any) -> Any:
        won.append(await take(other, new()))
        return await inner(*arguments)

    monkeypatch.setattr(slow.store, "claim", claim)
    assert exists(await refused(stub.Generate(new())))
    (answer,) = won
    assert answer.error is None
    assert (await stored(stub, "s")).length == answer.next


async def test_a_router_that_is_full_says_so_of_a_session_too(stack: Stack) -> None:
    endless(stack, delay_s=0)
    go_on = at_once(stack, 8)
    stub = await stack.stub(await stack.router(max_running=1))
    reading = await Reading(stub, new(max_new_tokens=30)).has(3)
    assert exists(await refused(stub.Generate(new())))
    assert (await refused(stub.Generate(new(session_id="another")))).reason == "TOO_MANY_ANSWERS"
    go_on.set()
    assert (await reading).error is None


async def test_a_session_that_the_router_names_is_new(stack: Stack) -> None:
    router = await stack.router()
    stub = await stack.stub(router)
    told = [await take(stub, new(session_id="")) for _ in range(2)]
    assert [answer.error for answer in told] == [None, None]
    assert len({answer.session_id for answer in told}) == 2
    await until(lambda: router.sessions.num_running == 0)


async def test_to_go_on_with_an_answer_is_nothing_new(stack: Stack) -> None:
    stub = await stack.stub(await stack.router())
    request = router_pb2.GenerateRequest(session_id="s", resume_from=0, only_if_new=True)
    assert (await refused(stub.Generate(request))).field == "only_if_new"
