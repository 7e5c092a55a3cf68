"""An answer that another router writes is read here as it grows, by any number of readers, and ends here as there."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from router_svc.trajectory.store import TrajectoryStore
from router_svc.trajectory.tailing import Tailing
from rstitch.v1 import router_pb2
from storage.redis_link import unavailable
from tests.support.asking import Answer, Reading, ask_for, check_kept, refused, take, threshold, until
from tests.support.endless import FINISHED, at_once, endless, expected, glued, resume
from tests.support.toy_stack import Stack

NUM = 60
ATTACH = router_pb2.GenerateRequest(session_id="s", resume_from=0)


async def written(stack: Stack, num: int = 20, **fields: Any) -> tuple[Any, Any, Reading, asyncio.Event]:
    """Stubs of the router that writes `num` tokens before it waits, and of another; its reader; what it waits for."""
    endless(stack, delay_s=0)
    go_on = at_once(stack, num)
    stub, other = [await stack.stub(await stack.router()) for _ in range(2)]
    asked = ask_for(**{"policy": threshold(0.9), "max_new_tokens": NUM, "session_id": "s", **fields})
    return stub, other, await Reading(stub, asked).has(num // 2), go_on


def same(answer: Answer, other: Answer) -> bool:
    """Whether two readers, who may have begun elsewhere, were told the same."""
    skip = other.position - answer.position
    assert (other.error, other.session_id, other.finished) == (None, answer.session_id, answer.finished)
    assert (other.tokens, other.authors) == (answer.tokens[skip:], answer.authors[skip:])
    assert other.entropies == answer.entropies[skip:]
    return True


async def test_it_is_read_as_it_grows_and_stays_its_routers(stack: Stack) -> None:
    _, other, reading, go_on = await written(stack)
    follower = await Reading(other, ATTACH).has(10)
    later = await Reading(other, router_pb2.GenerateRequest(session_id="s", resume_from=8)).has(5)
    assert not reading.is_over
    go_on.set()
    answer = await reading
    assert (answer.tokens, answer.authors) == expected(stack, NUM, 0.9)
    for each in (await follower, await later):
        assert same(answer, each)
    assert answer.switches == follower.answer.switches
    kept = await check_kept(other, follower.answer)
    assert (kept.state, kept.epoch) == (FINISHED, 1)


async def test_a_long_answer_comes_by_several_looks(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router_svc.trajectory.tailing.MANY_ENTRIES", 3)
    _, other, reading, go_on = await written(stack, 30)
    follower = await Reading(other, ATTACH).has(15)
    go_on.set()
    assert same(await reading, await follower)


async def test_its_readers_are_told_to_come_again_once_nobody_writes_it(stack: Stack) -> None:
    endless(stack, delay_s=0)
    go_on = at_once(stack, 20)
    first, second = await stack.router(), await stack.router()
    stub, other = await stack.stub(first), await stack.stub(second)
    asked = ask_for(policy=threshold(0.9), max_new_tokens=NUM, session_id="s")
    reading = await Reading(stub, asked).has(10)
    follower = await Reading(other, ATTACH).has(10)
    await first.sessions.drain()
    followed = await follower
    assert followed.error is not None
    assert (followed.error.code, followed.error.reason) == (grpc.StatusCode.ABORTED, "ROUTER_GONE")
    assert followed.error.metadata["resume_from"] == str(followed.next)
    assert (await reading).tokens == followed.tokens
    go_on.set()
    answer = glued(followed, await take(other, resume(followed)))
    assert (answer.tokens, answer.authors) == expected(stack, NUM, 0.9)


async def test_a_router_that_dies_is_found_out(stack: Stack) -> None:
    endless(stack, delay_s=0)
    go_on = at_once(stack, 20)
    first, second = await stack.router(), await stack.router()
    stub, other = await stack.stub(first), await stack.stub(second)
    reading = await Reading(stub, ask_for(policy=threshold(0.9), max_new_tokens=NUM, session_id="s")).has(10)
    follower = await Reading(other, ATTACH).has(10)
    first.lease.renew = lambda: asyncio.sleep(0)  # type: ignore[method-assign]
    followed = await follower
    assert followed.error is not None
    assert followed.error.reason == "ROUTER_GONE"
    resumed = Reading(other, resume(followed))
    await until(lambda: resumed.answer.session_id)  # before that the first may end it: nobody else has claimed it
    go_on.set()
    assert glued(followed, await resumed).tokens == expected(stack, NUM, 0.9)[0]
    assert (await reading).error is not None


@pytest.mark.parametrize("through", [0, 1], ids=["by its router", "by the other"])
async def test_one_that_is_cancelled_ends_so_for_all(stack: Stack, through: int) -> None:
    """Their clients would go on with it otherwise."""
    stub, other, reading, _ = await written(stack)
    follower = await Reading(other, ATTACH).has(10)
    await (stub, other)[through].CancelGeneration(router_pb2.CancelGenerationRequest(session_id="s"))
    for answer in (await reading, await follower):
        assert answer.error is not None
        assert (answer.error.code, answer.error.reason) == (grpc.StatusCode.CANCELLED, "CANCELLED")


async def test_one_that_is_deleted_is_gone_for_all(stack: Stack) -> None:
    _, other, reading, _ = await written(stack)
    follower = await Reading(other, ATTACH).has(10)
    await other.DeleteTrajectory(router_pb2.DeleteTrajectoryRequest(session_id="s"))
    for answer in (await reading, await follower):
        assert answer.error is not None
        assert answer.error.reason == "DELETED"


async def test_it_is_not_followed_for_nobody(stack: Stack) -> None:
    _, other, reading, go_on = await written(stack)
    followers = [await Reading(other, ATTACH).has(10) for _ in range(3)]
    assert num_followed() == 1
    for each in followers:
        each.leave()
    await until(lambda: num_followed() == 0)
    again = await Reading(other, ATTACH).has(10)
    go_on.set()
    assert same(await reading, await again)
    assert num_followed() == 0


def num_followed() -> int:
    return sum(task.get_name().startswith("follow-") for task in asyncio.all_tasks())


async def test_a_router_that_is_stopped_follows_no_more(stack: Stack) -> None:
    endless(stack, delay_s=0)
    at_once(stack, 20)
    first, second = await stack.router(), await stack.router()
    asked = ask_for(policy=threshold(0.9), max_new_tokens=NUM, session_id="s")
    reading = await Reading(await stack.stub(first), asked).has(10)
    follower = await Reading(await stack.stub(second), ATTACH).has(10)
    await second.sessions.drain()
    followed = await follower
    assert followed.error is not None
    assert followed.error.reason == "ROUTER_DRAINING"
    assert not reading.is_over


async def held_up(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Nothing more is seen of the answer that is followed, until what this gives is set."""
    looks, waits, inner = asyncio.Event(), asyncio.Event(), Tailing.look

    async def late(self: Tailing, *arguments: Any) -> Any:
        waits.set()
        await looks.wait()
        return await inner(self, *arguments)

    monkeypatch.setattr(Tailing, "look", late)
    await waits.wait()
    return looks


async def test_who_missed_its_end_is_told_so(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    stub, other, reading, go_on = await written(stack)
    follower = await Reading(other, ATTACH).has(10)
    looks = await held_up(monkeypatch)
    go_on.set()
    await reading
    await take(stub, ask_for(session_id="s", policy=threshold(0.9), max_new_tokens=2))
    looks.set()
    followed = await follower
    assert followed.error is not None
    assert (followed.error.code, followed.error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ANSWER_OVER")


async def test_who_has_read_further_than_it_is_followed_goes_on(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader whose router is gone knows more than the looks of the next one have found."""
    _, other, reading, go_on = await written(stack)
    follower = await Reading(other, ATTACH).has(10)
    looks = await held_up(monkeypatch)
    go_on.set()
    answer = await reading
    ahead = router_pb2.GenerateRequest(session_id="s", resume_from=answer.next - 5)
    further = Reading(other, ahead)
    await until(lambda: further.is_over or further.answer.session_id)
    looks.set()
    for each in (await further, await follower):
        assert same(answer, each)
    assert (await further).tokens == answer.tokens[-5:]


async def test_one_that_was_asked_anew_is_another(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    stub, other, reading, go_on = await written(stack)
    follower = await Reading(other, ATTACH).has(10)
    looks = await held_up(monkeypatch)
    await stub.DeleteTrajectory(router_pb2.DeleteTrajectoryRequest(session_id="s"))
    go_on.set()
    asked = ask_for(prompt=(3, 4, 5), policy=threshold(0.9), max_new_tokens=NUM, session_id="s")
    await take(stub, asked)
    looks.set()
    followed = await follower
    assert followed.error is not None
    assert followed.error.reason == "DELETED"
    assert (await reading).tokens[: len(followed.tokens)] == followed.tokens


async def test_its_next_answer_is_found_before_its_end_was_seen(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    stub, other, reading, go_on = await written(stack)
    follower = await Reading(other, ATTACH).has(10)
    looks = await held_up(monkeypatch)
    go_on.set()
    await reading
    go_on.clear()
    following = await Reading(stub, ask_for(session_id="s", policy=threshold(0.9), max_new_tokens=NUM)).has(10)
    follower_of_it = Reading(other, ATTACH)
    followed = await follower
    assert followed.error is not None
    assert followed.error.reason == "ANSWER_OVER"
    looks.set()
    go_on.set()
    assert same(await following, await follower_of_it)
    assert num_followed() == 0


async def test_a_claim_whose_reply_was_lost_is_followed_by_nobody_for_ever(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its router lives and does not know that it has the session."""
    first, second = await stack.router(), await stack.router()
    stub, other = await stack.stub(first), await stack.stub(second)
    inner = TrajectoryStore.claim

    async def lost(self: TrajectoryStore, *arguments: Any) -> Any:
        await inner(self, *arguments)
        raise unavailable()

    with monkeypatch.context() as patched:
        patched.setattr(TrajectoryStore, "claim", lost)
        error = await refused(stub.Generate(ask_for(policy=threshold(0.9), max_new_tokens=8, session_id="s")))
    assert error.reason == "REDIS_UNAVAILABLE"
    followed = await take(other, ATTACH)
    if followed.error is not None:  # it was read before its router had given it back
        assert followed.error.reason == "ROUTER_GONE"
        followed = await take(other, resume(followed))
    assert (followed.tokens, followed.authors) == expected(stack, 8, 0.9)


async def test_only_so_many_are_followed(stack: Stack) -> None:
    endless(stack, delay_s=0)
    at_once(stack, 20)
    stub = await stack.stub(await stack.router())
    other = await stack.stub(await stack.router(max_running=1))
    readings = [
        await Reading(stub, ask_for(policy=threshold(0.9), max_new_tokens=NUM, session_id=name)).has(10)
        for name in ("s", "t")
    ]
    follower = await Reading(other, ATTACH).has(10)
    error = await refused(other.Generate(router_pb2.GenerateRequest(session_id="t", resume_from=0)))
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_ANSWERS")
    assert error.retry_after_s
    assert not follower.is_over
    assert not any(reading.is_over for reading in readings)
