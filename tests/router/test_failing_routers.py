"""Routers drain and die; another one goes on with their answers, and only then."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from redis.asyncio import Redis

from router_svc.main import Router
from router_svc.trajectory import keys
from rstitch.v1 import router_pb2
from tests.support.asking import Reading, ask_for, check_kept, refused, take, threshold, until
from tests.support.endless import FINISHED, INTERRUPTED, endless, expected, glued, resume, state_of
from tests.support.toy_stack import Stack

NOT_FOUND = grpc.StatusCode.NOT_FOUND


async def test_a_drained_router_gives_up_its_lease_for_good(stack: Stack) -> None:
    router = await stack.router(lease_s=0.3)
    key = keys.router(router.lease.router_id)
    async with Redis.from_url(stack.redis_url) as client:
        await until(lambda: client.exists(key))
        await router.sessions.drain()
        with pytest.raises(TimeoutError):  # in twice the time within which it would be renewed
            async with asyncio.timeout(0.3):
                await until(lambda: client.exists(key))


class _Claiming:
    """A router whose claims are made, and answered only when a test says so."""

    def __init__(self, router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made, self.answered = asyncio.Event(), asyncio.Event()
        self._inner = router.store.claim
        monkeypatch.setattr(router.store, "claim", self._claim)

    async def _claim(self, *arguments: Any) -> Any:
        outcome = await self._inner(*arguments)
        self.made.set()
        await self.answered.wait()
        return outcome


@pytest.mark.parametrize("leaves", [False, True], ids=["read", "left"])
async def test_an_answer_that_begins_during_a_drain_is_interrupted_too(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, leaves: bool
) -> None:
    """And the drain waits for it, whether anybody reads it or not: the session is free at once."""
    endless(stack)
    router = await stack.router()
    stub = await stack.stub(router)
    claiming = _Claiming(router, monkeypatch)
    asking = asyncio.create_task(take(stub, ask_for(session_id="mine", policy=threshold(0.5), max_new_tokens=900)))
    await claiming.made.wait()
    if leaves:
        asking.cancel()
        await asyncio.wait({asking})
    draining = asyncio.create_task(router.sessions.drain())
    refusal = await refused(stub.Generate(ask_for()))
    assert refusal.reason == "ROUTER_DRAINING"
    assert not draining.done()
    claiming.answered.set()
    await draining
    assert await state_of(stub, "mine") == INTERRUPTED
    if not leaves:
        answer = await asking
        assert answer.error is not None
        assert answer.error.reason == "ROUTER_DRAINING"


async def test_a_drain_cuts_off_a_claim_that_has_no_end(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which Redis may have made: the session is as free as any of a router that is gone."""
    router = await stack.router(lease_s=30, drain_grace_s=0.1)
    stub = await stack.stub(router)
    claiming = _Claiming(router, monkeypatch)
    asking = asyncio.create_task(refused(stub.Generate(ask_for(session_id="mine"))))
    await claiming.made.wait()
    await router.sessions.drain()
    assert (await asking).reason == "ROUTER_DRAINING"
    other = await stack.stub(await stack.router())
    answer = await take(other, ask_for(session_id="mine", max_new_tokens=3))
    assert answer.error is None


async def test_a_deletion_is_done_before_its_router_is_gone(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    router = await stack.router()
    stub = await stack.stub(router)
    await take(stub, ask_for(session_id="mine", max_new_tokens=3))
    asked, may_go_on = asyncio.Event(), asyncio.Event()
    inner = router.store.delete

    async def slow(name: str) -> Any:
        asked.set()
        await may_go_on.wait()
        return await inner(name)

    monkeypatch.setattr(router.store, "delete", slow)
    deleting = asyncio.ensure_future(stub.DeleteTrajectory(router_pb2.DeleteTrajectoryRequest(session_id="mine")))
    await asked.wait()
    deleting.cancel()  # it is done all the same
    draining = asyncio.create_task(router.sessions.drain())
    assert (await refused(stub.Generate(ask_for()))).reason == "ROUTER_DRAINING"
    assert not draining.done()
    may_go_on.set()
    await draining
    assert (await refused(stub.GetTrajectory(router_pb2.GetTrajectoryRequest(session_id="mine")))).code == NOT_FOUND


async def test_a_deletion_that_comes_during_a_drain_is_done_before_the_connections_close(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its caller may be gone by then, and the server waits for it no more."""
    deleting: list[asyncio.Task[None]] = []
    waited_for = asyncio.Event()
    async with stack.routing() as router:
        await router.ready.wait()
        await take(await stack.stub(router), ask_for(session_id="mine", max_new_tokens=3))
        delete, end, stop = router.store.delete, router.sessions.under_way.end_calls, router.server.stop

        async def slow_delete(name: str) -> Any:
            await waited_for.wait()
            return await delete(name)

        async def stop_later(grace_s: float) -> None:
            await stop(grace_s)
            deletion = router.sessions.under_way.run(router.sessions.delete("mine"))
            deleting.append(asyncio.create_task(deletion))
            await asyncio.sleep(0)

        async def ended(patience_s: float) -> None:
            if deleting:
                waited_for.set()
            await end(patience_s)

        monkeypatch.setattr(router.store, "delete", slow_delete)
        monkeypatch.setattr(router.server, "stop", stop_later)
        monkeypatch.setattr(router.sessions.under_way, "end_calls", ended)
    (deletion,) = deleting
    assert deletion.done()
    await deletion


async def test_a_drained_router_hands_over_at_once(stack: Stack) -> None:
    endless(stack)
    first = await stack.router(lease_s=30)
    stub = await stack.stub(first)
    reading = await Reading(stub, ask_for(policy=threshold(0.5), max_new_tokens=150)).has(20)
    await first.sessions.drain()
    answer = await reading
    assert answer.error is not None
    assert (answer.error.code, answer.error.reason) == (grpc.StatusCode.UNAVAILABLE, "ROUTER_DRAINING")
    assert answer.error.metadata["resume_from"] == str(answer.next)
    error = await refused(stub.Generate(ask_for()))
    assert error.reason == "ROUTER_DRAINING"

    stub = await stack.stub(await stack.router())
    assert glued(answer, await take(stub, resume(answer))).tokens == expected(stack, 150)[0]
    trajectory = await check_kept(stub, answer)
    assert (trajectory.state, trajectory.epoch) == (FINISHED, 2)


async def test_a_dead_router_is_taken_over_and_a_living_one_is_not(stack: Stack) -> None:
    endless(stack, 0.004)
    async with asyncio.timeout(20):
        first, second = await stack.router(), await stack.router()
        stub, other = await stack.stub(first), await stack.stub(second)
        reading = await Reading(stub, ask_for(policy=threshold(0.5), max_new_tokens=400, session_id="s")).has(20)
        attach = router_pb2.GenerateRequest(session_id="s", resume_from=0)
        error = await refused(other.Generate(ask_for(session_id="s")))
        assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SESSION_RUNNING")

        # Cut off from Redis' point of view: it goes on writing, but its lease runs out.
        first.lease.renew = lambda: asyncio.sleep(0)  # type: ignore[method-assign]
        taken = await take(other, attach)
        answer = await reading
        assert answer.error is not None
        assert (answer.error.code, answer.error.reason) == (grpc.StatusCode.ABORTED, "TAKEN_OVER")
        assert taken.error is None
        assert (taken.tokens, taken.authors) == expected(stack, 400)
        assert answer.tokens == taken.tokens[: len(answer.tokens)]
        assert (await check_kept(other, taken)).epoch == 2
