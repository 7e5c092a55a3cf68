"""A question in a session that another router writes: refused as that router would, however the two meet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from router_svc.main import Router
from router_svc.trajectory.store import Owned, OwnedElsewhere, TrajectoryStore
from router_svc.trajectory.types import FinishReason, Source, State
from router_svc.trajectory.usage import Usage
from rstitch.v1 import router_pb2 as pb
from tests.support.asking import Reading, ask_for, check_kept, refused, stored, take, threshold, until
from tests.support.endless import FINISHED, at_once, endless, expected
from tests.support.toy_stack import Stack
from tests.support.trajectories import begun, chunk

BY_SLM = threshold(1.0)


def around_the_first_claim(
    router: Router,
    monkeypatch: pytest.MonkeyPatch,
    before: Callable[[], Awaitable[Any]] | None = None,
    after: Callable[[], Awaitable[Any]] | None = None,
) -> list[Any]:
    """Does something before or after a router's first claim; returns the outcomes of all its claims, which grow."""
    inner, outcomes = router.store.claim, list[Any]()

    async def claim(*arguments: Any) -> Any:
        if not outcomes and before is not None:
            await before()
        outcomes.append(await inner(*arguments))
        if len(outcomes) == 1 and after is not None:
            await after()
        return outcomes[-1]

    monkeypatch.setattr(router.store, "claim", claim)
    return outcomes


@pytest.mark.parametrize(
    "how", ["it ends while its lease is watched", "it ends before the claim", "it grows before it"]
)
async def test_a_question_in_a_session_that_is_written_is_refused_on_every_router(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    endless(stack, delay_s=0)
    first, second = await stack.router(lease_s=30), await stack.router()
    stub, other = await stack.stub(first), await stack.stub(second)
    go_on = at_once(stack, 8)
    reading = await Reading(stub, ask_for(session_id="s", policy=BY_SLM, max_new_tokens=30)).has(3)

    async def end() -> None:
        go_on.set()
        await reading

    async def grow() -> None:
        length = (await stored(stub, "s")).length
        stack.slm.delay_s, stack.slm.pace = 0.05, stack.slm._sleep
        go_on.set()
        await until(lambda: _is_longer(stub, length))

    watched = how == "it ends while its lease is watched"
    before = None if watched else grow if how == "it grows before it" else end
    outcomes = around_the_first_claim(second, monkeypatch, before, end if watched else None)
    error = await refused(other.Generate(ask_for((4, 4), session_id="s")))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SESSION_RUNNING")
    if watched:
        assert isinstance(outcomes[0], OwnedElsewhere)
    else:
        assert outcomes == [None]
    answer = await reading
    assert (answer.tokens, answer.authors) == expected(stack, 30, 1.0)
    trajectory = await check_kept(stub, answer)
    assert (trajectory.state, trajectory.length) == (FINISHED, 33)
    # Once it is not written any more, the next question is answered.
    again = await take(other, ask_for((4, 4), session_id="s", policy=BY_SLM, max_new_tokens=5))
    assert (again.error, again.num_prompt_tokens) == (None, 35)


async def _is_longer(stub: Any, length: int) -> bool:
    return (await stored(stub, "s")).length > length


async def test_a_question_goes_on_from_where_a_dead_router_left_its_session(stack: Stack) -> None:
    endless(stack, delay_s=0)
    first, second = await stack.router(), await stack.router()
    stub, other = await stack.stub(first), await stack.stub(second)
    go_on = at_once(stack, 8)
    reading = await Reading(stub, ask_for(session_id="s", policy=BY_SLM, max_new_tokens=30)).has(3)
    first.lease.renew = lambda: asyncio.sleep(0)  # type: ignore[method-assign]
    asked = Reading(other, ask_for((4, 4), session_id="s", policy=BY_SLM, max_new_tokens=5))
    await until(lambda: second.sessions.num_running or asked.is_over)
    go_on.set()
    answer = await asked
    assert (answer.error, answer.num_prompt_tokens) == (None, 3 + 8 + 2)
    trajectory = await stored(other, "s")
    assert [segment.source for segment in trajectory.segments] == [
        pb.SOURCE_PROMPT,
        pb.SOURCE_SLM,
        pb.SOURCE_PROMPT,
        pb.SOURCE_SLM,
    ]
    cut = await reading
    assert cut.error is not None
    assert cut.error.reason == "TAKEN_OVER"


async def test_an_answer_that_ended_since_it_was_read_is_not_what_was_to_be_claimed(store: TrajectoryStore) -> None:
    """Its last append has no tokens, so that epoch and length are as they were."""
    owned = await begun(store)
    running = await store.header("s")
    await store.append("s", owned, 3, [], Usage(), State.FINISHED, FinishReason.LENGTH)
    prompt = [chunk(Source.PROMPT, 3, 5)]
    for router in ("a", "b"):
        assert await store.claim(running, "s", router, "settings", Usage(), prompt) is None
    assert await store.claim(await store.header("s"), "s", "b", "settings", Usage(), prompt) == Owned(2, "b")
