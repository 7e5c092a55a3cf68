"""A session that is being written is the same on every router: whichever is asked, it says so or does what is asked."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from router_svc.trajectory.store import OwnedElsewhere
from rstitch.v1 import router_pb2
from tests.support.asking import Reading, ask_for, check_kept, refused, stored, take, threshold, until
from tests.support.endless import INTERRUPTED, endless, expected, state_of
from tests.support.toy_stack import Stack

RUNNING = 1


def hold(stack: Stack, after: int = 12) -> asyncio.Event:
    """Both workers stop once they have computed so many tokens, until the event is set."""
    endless(stack, 0)
    gate, num = asyncio.Event(), 0

    async def pace() -> None:
        nonlocal num
        num += 1
        if num > after:
            await gate.wait()

    stack.slm.pace = stack.llm.pace = pace
    return gate


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "over another router"])
async def test_a_question_meanwhile_is_refused_even_if_the_answer_ends_while_it_waits(
    stack: Stack, elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = hold(stack)
    first, second = await stack.router(lease_s=60), await stack.router(lease_s=60)
    stub, other = await stack.stub(first), await stack.stub(second)
    reading = await Reading(stub, ask_for(policy=threshold(0.5), max_new_tokens=30, session_id="s")).has(3)
    inner = second.store.claim

    async def ending(*arguments: Any) -> Any:
        """Finds the lease of a router that may live or not; the next look finds an answer that has ended."""
        outcome = await inner(*arguments)
        if isinstance(outcome, OwnedElsewhere):
            gate.set()
            await until(lambda: reading.is_over)
        return outcome

    monkeypatch.setattr(second.store, "claim", ending)
    asked = ask_for((1, 2), policy=threshold(0.5), max_new_tokens=5, session_id="s")
    error = await refused((other if elsewhere else stub).Generate(asked))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SESSION_RUNNING")
    gate.set()
    answer = await reading
    assert answer.tokens == expected(stack, 30)[0]
    assert (await check_kept(stub, answer)).length == 33
    # Asked again, now that nobody writes, it is the next turn.
    assert (await take(other if elsewhere else stub, asked)).position == 35


async def test_a_question_waits_for_the_lease_of_a_router_that_is_gone(stack: Stack) -> None:
    gate = hold(stack)
    first, second = await stack.router(), await stack.router()
    stub, other = await stack.stub(first), await stack.stub(second)
    reading = await Reading(stub, ask_for(policy=threshold(0.5), max_new_tokens=400, session_id="s")).has(3)
    first.lease.renew = lambda: asyncio.sleep(0)  # type: ignore[method-assign]
    first.sessions.tidy = lambda: asyncio.sleep(0)  # type: ignore[method-assign]
    asking = asyncio.create_task(take(other, ask_for((1, 2), policy=threshold(0.5), max_new_tokens=5, session_id="s")))
    await until(lambda: asking.done() or "s" in second.sessions._running)
    gate.set()
    after = await asking
    assert after.error is None
    assert len(after.tokens) == 5
    assert after.position > (await reading).next
    await check_kept(other, after)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "over another router"])
async def test_what_else_may_be_asked_of_it_meanwhile(stack: Stack, elsewhere: bool) -> None:
    """The answer waits for a model and stores nothing, so that its router hears nothing from the store by itself."""
    hold(stack)
    router = await stack.router(detach_grace_s=60)
    owner = await stack.stub(router)
    stub = await stack.stub(await stack.router()) if elsewhere else owner
    reading = await Reading(owner, ask_for(policy=threshold(0.5), max_new_tokens=400, session_id="s")).has(3)
    label = router_pb2.LabelTrajectoryRequest(session_id="s", label=router_pb2.LABEL_RIGHT)
    observe = router_pb2.ObserveAnswerRequest(session_id="s", tau=-1)
    for call in (stub.LabelTrajectory(label), stub.ObserveAnswer(observe)):
        error = await refused(call)
        assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ANSWER_NOT_FINISHED")
    assert await state_of(stub, "s") == RUNNING
    cancelled = await stub.CancelGeneration(router_pb2.CancelGenerationRequest(session_id="s"))
    assert (cancelled.cancelled, cancelled.state) == (True, INTERRUPTED)
    assert (await reading).error is not None

    again = Reading(owner, router_pb2.GenerateRequest(session_id="s", resume_from=0))
    await until(lambda: again.answer.session_id)
    assert (await stored(stub, "s")).length == cancelled.length
    await stub.DeleteTrajectory(router_pb2.DeleteTrajectoryRequest(session_id="s"))
    error = (await again).error
    assert error is not None
    assert (error.code, error.reason) == (grpc.StatusCode.ABORTED, "DELETED")
    assert router.sessions.num_running == 0
    await until(lambda: not stack.slm.num_streams and not stack.llm.num_streams)
    error = await refused(stub.CancelGeneration(router_pb2.CancelGenerationRequest(session_id="s")))
    assert error.reason == "UNKNOWN_SESSION"
