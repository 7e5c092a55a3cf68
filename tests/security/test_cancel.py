"""An answer that is cancelled, or whose readers left: it ends at once on both workers, and nothing of it is lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from router_svc.main import Router
from router_svc.trajectory import keys
from rstitch.v1 import router_pb2
from tests.support.asking import Answer, Reading, ask_for, chat, check_kept, refused, stored, take, threshold, until
from tests.support.endless import FINISHED, INTERRUPTED, endless, expected, glued, resume, state_of
from tests.support.fake_worker import FakeWorker
from tests.support.naive import EXITS
from tests.support.toy_stack import Stack

STOP = router_pb2.ON_DISCONNECT_STOP
CONTINUE = router_pb2.ON_DISCONNECT_CONTINUE


class Turnstile:
    """Lets a worker compute `num` tokens, and no more."""

    def __init__(self, worker: FakeWorker, num: int) -> None:
        self.is_held = False  # whether another one is waited for
        self._permits = asyncio.Semaphore(num)
        worker.pace = self._pace

    async def _pace(self) -> None:
        self.is_held |= self._permits.locked()
        await self._permits.acquire()


async def cancel(stub: Any, session_id: str) -> tuple[bool, int, int]:
    reply = await stub.CancelGeneration(router_pb2.CancelGenerationRequest(session_id=session_id))
    return reply.cancelled, reply.state, reply.length


async def pair_of_stubs(stack: Stack, **settings: Any) -> tuple[Router, Any, Any]:
    """The router that is asked, its stub, and one of a second router."""
    first, second = await stack.router(**settings), await stack.router(**settings)
    return first, await stack.stub(first), await stack.stub(second)


def is_cancelled(answer: Answer) -> bool:
    error = answer.error
    return (
        error is not None
        and (error.code, error.reason) == (grpc.StatusCode.CANCELLED, "CANCELLED")
        and error.metadata["resume_from"] == str(answer.next)
    )


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "over another router"])
async def test_a_cancelled_answer_is_kept_and_goes_on_by_wish(stack: Stack, elsewhere: bool) -> None:
    endless(stack)
    _, stub, other = await pair_of_stubs(stack, lease_s=15)
    asked = ask_for(policy=threshold(0.5), max_new_tokens=150, session_id="s")
    reading = await Reading(stub, asked).has(20)
    second = await Reading(stub, router_pb2.GenerateRequest(session_id="s", resume_from=3)).has(1)
    cancelled, state, length = await cancel(other if elsewhere else stub, "s")
    answer = await reading
    assert (cancelled, state) == (True, INTERRUPTED)
    assert is_cancelled(answer)
    assert is_cancelled(await second)
    assert answer.next <= length == (await check_kept(stub, answer)).length < 153
    assert await cancel(stub, "s") == await cancel(other, "s") == (False, INTERRUPTED, length)
    # A mark that stayed would end it once more.
    rest = await take(other, resume(answer))
    assert glued(answer, rest).tokens == expected(stack, 150)[0]
    assert await cancel(stub, "s") == await cancel(other, "s") == (False, FINISHED, 153)
    await check_kept(other, answer)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "over another router"])
async def test_the_next_question_may_come_at_once(stack: Stack, elsewhere: bool) -> None:
    endless(stack)
    _, stub, other = await pair_of_stubs(stack, lease_s=15)
    first = ask_for(chat=chat(("user", "one two")), policy=threshold(0.5), max_new_tokens=150, session_id="s")
    reading = await Reading(stub, first).has(10)
    _, _, length = await cancel(other if elsewhere else stub, "s")
    again = ask_for(chat=chat(("user", "three")), policy=threshold(0.5), max_new_tokens=12, session_id="s")
    after = await take(stub, again)
    assert after.error is None
    assert after.position > length >= (await reading).next
    assert len(after.tokens) == 12
    await check_kept(stub, after)


ASKED: dict[str, dict[str, Any]] = {
    "run-ahead": {"policy": threshold(0.5)},
    "speculative": {"policy": router_pb2.Policy(speculative=router_pb2.Speculative(draft_tokens=4))},
    "early exit": {"policy": threshold(0.5), "early_exit": EXITS[0]},
    "LLM alone": {"policy": router_pb2.Policy(llm_only=router_pb2.LlmOnly())},
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize("how", ["cancelled", "cancelled over another router", "left"])
async def test_both_workers_are_free_within_one_step(stack: Stack, asked: dict[str, Any], how: str) -> None:
    """Wherever it stands: in a run ahead, a draft, its verification, a trial."""
    endless(stack, 0)
    _, stub, other = await pair_of_stubs(stack, run_ahead="on", catch_up_tokens=1, lease_s=2)

    async def one(num: int) -> None:
        session_id, steps = f"s{num}", [Turnstile(stack.slm, num), Turnstile(stack.llm, num)]
        reading = Reading(stub, ask_for(**asked, max_new_tokens=2000, session_id=session_id, on_disconnect=STOP))
        await until(lambda: reading.answer.session_id and any(each.is_held for each in steps))
        if how == "left":
            reading.leave()
        else:
            assert (await cancel(stub if how == "cancelled" else other, session_id))[0]
            assert is_cancelled(await reading)
        # Not one token more is let through, and none is needed.
        await until(lambda: stack.slm.num_streams == stack.llm.num_streams == 0)
        assert not stack.slm.busy | stack.llm.busy
        await until(lambda: is_in(stub, session_id, INTERRUPTED))

    for num in (0, 2, 9):
        await one(num)


async def is_in(stub: Any, session_id: str, state: int) -> bool:
    return await state_of(stub, session_id) == state


@pytest.mark.parametrize("setting", ["continue", "stop"])
async def test_a_request_says_what_a_disconnect_means_or_the_router(stack: Stack, setting: str) -> None:
    endless(stack)
    router = await stack.router(on_disconnect=setting, detach_grace_s=60)
    stub = await stack.stub(router)
    for wish, value in (("continue", CONTINUE), ("stop", STOP), (setting, 0)):
        session_id = f"{wish}-{value}"
        asked = ask_for(policy=threshold(0.5), max_new_tokens=100, session_id=session_id, on_disconnect=value)
        answer = await take(stub, asked, num_tokens=5)
        await until(lambda: router.sessions.num_running == 0)
        assert await is_in(stub, session_id, INTERRUPTED if wish == "stop" else FINISHED)
        # Whoever comes back goes on; and may leave again, which means the same.
        answer = glued(answer, await take(stub, resume(answer), num_tokens=5))
        await until(lambda: router.sessions.num_running == 0)
        assert await is_in(stub, session_id, INTERRUPTED if wish == "stop" else FINISHED)
        assert glued(answer, await take(stub, resume(answer))).tokens == expected(stack, 100)[0]


async def test_it_stops_when_the_last_reader_leaves_and_not_before(stack: Stack) -> None:
    endless(stack)
    router = await stack.router()
    stub = await stack.stub(router)
    asked = ask_for(policy=threshold(0.5), max_new_tokens=2000, session_id="s", on_disconnect=STOP)
    first = await Reading(stub, asked).has(5)
    second = await Reading(stub, router_pb2.GenerateRequest(session_id="s", resume_from=3)).has(10)
    first.leave()
    await second.has(len(second.answer.tokens) + 20)
    second.leave()
    await until(lambda: router.sessions.num_running == 0)
    assert await is_in(stub, "s", INTERRUPTED)


async def test_whoever_leaves_before_the_answer_began_stops_it_too(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless(stack)
    router = await stack.router()
    stub = await stack.stub(router)
    claimed, left = asyncio.Event(), asyncio.Event()
    inner = router.store.claim

    async def slow(*arguments: Any) -> Any:
        outcome = await inner(*arguments)
        claimed.set()
        await left.wait()
        return outcome

    monkeypatch.setattr(router.store, "claim", slow)
    call = stub.Generate(ask_for(policy=threshold(0.5), max_new_tokens=2000, session_id="s", on_disconnect=STOP))
    reading = asyncio.ensure_future(call.read())
    await claimed.wait()
    call.cancel()
    await asyncio.wait({reading})
    monkeypatch.undo()
    await stub.GetStatus(router_pb2.GetStatusRequest())  # behind it on the same connection: the router knows by now
    left.set()
    await until(lambda: is_in(stub, "s", INTERRUPTED))
    assert (await stored(stub, "s")).length < 200, "its first readers have a second to come, this one had left"


async def test_an_answer_whose_router_died_is_cancelled_without_it(stack: Stack) -> None:
    endless(stack)
    async with asyncio.timeout(20):
        first, stub, other = await pair_of_stubs(stack)
        reading = await Reading(stub, ask_for(policy=threshold(0.5), max_new_tokens=4000, session_id="s")).has(20)
        # Cut off from Redis' point of view: its lease runs out, and its appends come late.
        first.lease.renew = lambda: asyncio.sleep(0)  # type: ignore[method-assign]
        await until(lambda: lease_is_over(first))
        assert (await cancel(other, "s"))[:2] == (True, INTERRUPTED)
        answer = await reading
        assert answer.error is not None
        assert answer.error.reason in ("TAKEN_OVER", "CANCELLED"), "it was only slow: fenced off, or told in time"
        kept = await check_kept(other, answer)
        assert kept.state == INTERRUPTED
        assert kept.length >= answer.next


async def lease_is_over(router: Router) -> bool:
    return not await router.store._link.command("EXISTS", keys.router(router.lease.router_id))


@pytest.mark.parametrize("session_id", ["", "a b", "x" * 129, "../s"])
async def test_what_cannot_be_cancelled_is_told_by_name(stack: Stack, session_id: str) -> None:
    stub = await stack.stub(await stack.router())
    error = await refused(stub.CancelGeneration(router_pb2.CancelGenerationRequest(session_id=session_id)))
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "session_id")
    error = await refused(stub.CancelGeneration(router_pb2.CancelGenerationRequest(session_id="nobodys")))
    assert (error.code, error.reason, error.field) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_SESSION", "session_id")
    wrong: list[dict[str, Any]] = [{"on_disconnect": 7}, {"on_disconnect": STOP, "session_id": "s", "resume_from": 0}]
    for fields in wrong:
        error = await refused(stub.Generate(ask_for(**fields)))
        assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "on_disconnect")


def has_or_is_over(reading: Reading, num_tokens: int) -> Callable[[], bool]:
    return lambda: reading.is_over or len(reading.answer.tokens) >= num_tokens


async def test_cancels_of_many_at_random_moments(stack: Stack) -> None:
    """Each answer is cancelled from some router at some token, again and again, and is what it would have been."""
    endless(stack, 0.001)
    _, *stubs = await pair_of_stubs(stack, lease_s=15)  # a busy machine is not to lose it
    truth = expected(stack, 40)[0]

    async def one(number: int) -> None:
        dice = random.Random(number)
        session_id = f"s{number}"
        answer = Answer()
        asked = ask_for(policy=threshold(0.5), max_new_tokens=40, session_id=session_id)
        while answer.finished is None:
            reading = Reading(stubs[0] if not answer.session_id else dice.choice(stubs), asked)
            await until(has_or_is_over(reading, dice.randrange(1, 20)), patience_s=90)
            _, _, length = await cancel(dice.choice(stubs), session_id)
            part = await reading
            assert part.finished or is_cancelled(part)
            part.error = None
            assert part.next <= length, "tokens inside a character are shown with its end"
            answer = glued(answer, part) if answer.session_id else part
            asked = resume(answer)
        assert answer.tokens == truth

    await asyncio.gather(*(one(number) for number in range(5)))
    await until(lambda: not stack.slm.busy | stack.llm.busy)
    assert stack.slm.num_streams == stack.llm.num_streams == 0
