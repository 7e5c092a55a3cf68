"""Parts fail; the answer is the same, and nobody loses or repeats a token."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import grpc
import pytest
from redis.asyncio import Redis

from router_svc.trajectory import keys
from router_svc.workers import client as workers
from rstitch.errors import RstitchError
from rstitch.v1 import router_pb2
from tests.support.asking import Answer, Reading, ask_for, check_kept, refused, stored, take, threshold, until
from tests.support.redis_process import RedisProcess
from tests.support.toy import ToyModel, algorithm_1
from tests.support.toy_stack import Stack

RUNNING, FINISHED, INTERRUPTED = 1, 2, 3


def endless(stack: Stack, delay_s: float = 0.002) -> None:
    """Answers that end at their limit only, slowly enough to break in on."""
    stack.slm.model, stack.llm.model = ToyModel(1, stop_every=0), ToyModel(2, stop_every=0)
    stack.slm.delay_s = stack.llm.delay_s = delay_s


def expected(
    stack: Stack, num: int, tau: float = 0.5, prompt: tuple[int, ...] = (7, 8, 9)
) -> tuple[list[int], list[str]]:
    return algorithm_1(stack.slm.model, stack.llm.model, prompt, tau, tau, num)


def resume(answer: Answer) -> router_pb2.GenerateRequest:
    return router_pb2.GenerateRequest(session_id=answer.session_id, resume_from=answer.next)


def glued(first: Answer, second: Answer) -> Answer:
    """Both parts as one; the second must begin where the first left off."""
    assert second.error is None, second.error
    assert second.position == first.next
    first.tokens += second.tokens
    first.authors += second.authors
    first.entropies += second.entropies
    first.text += second.text
    first.finished = second.finished
    return first


async def state_of(stub: Any, session_id: str) -> int:
    return (await stored(stub, session_id)).state


@pytest.mark.parametrize("seed", range(2))
async def test_errors_of_workers_change_nothing(stack: Stack, seed: int) -> None:
    rng = random.Random(seed)
    endless(stack, 0)
    stub = await stack.stub(await stack.router())

    def error() -> RstitchError:
        return rng.choice(
            [
                RstitchError(
                    grpc.StatusCode.FAILED_PRECONDITION, "HELD_TOO_SHORT", "", metadata={"held": str(rng.randrange(3))}
                ),
                RstitchError(grpc.StatusCode.FAILED_PRECONDITION, "PREFIX_MISMATCH", "", metadata={"held": "9"}),
                RstitchError(grpc.StatusCode.RESOURCE_EXHAUSTED, "NO_CAPACITY", "", retry_after_s=0.01),
                RstitchError(grpc.StatusCode.ABORTED, "SESSION_BUSY", ""),
                RstitchError(grpc.StatusCode.UNAVAILABLE, "TRANSPORT", ""),
            ]
        )

    for worker in (stack.slm, stack.llm):
        worker.errors = [error() for _ in range(6)]
        worker.break_after = [rng.randrange(1, 6) for _ in range(6)]
    answer = await take(stub, ask_for(policy=threshold(0.5), max_new_tokens=80))
    assert answer.error is None
    assert (answer.tokens, answer.authors) == expected(stack, 80)
    await check_kept(stub, answer)


async def test_a_reply_that_cannot_be_read_ends_the_answer(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(message: Any) -> Any:
        raise AttributeError("what the library makes of bytes that do not parse is None")

    monkeypatch.setattr(workers, "_reply", unreadable)
    stub = await stack.stub(await stack.router())
    async with asyncio.timeout(10):
        answer = await take(stub, ask_for())
    assert answer.error is not None
    assert (answer.error.code, answer.error.reason) == (grpc.StatusCode.INTERNAL, "PROTOCOL")


@pytest.mark.parametrize("role", ["slm", "llm"])
async def test_a_restarted_worker_is_caught_up_from_the_trajectory(stack: Stack, role: str) -> None:
    endless(stack, 0.004)
    router = await stack.router()
    stub = await stack.stub(router)
    worker = stack.slm if role == "slm" else stack.llm

    reading = await Reading(stub, ask_for(policy=threshold(0.5), max_new_tokens=120)).has(20)
    await worker.stop()
    await until(lambda: worker.num_streams == 0)
    assert router.sessions.num_running == 1, "the answer was over before the worker was stopped"
    await worker.start()
    answer = await reading
    assert answer.error is None
    assert (answer.tokens, answer.authors) == expected(stack, 120)
    await check_kept(stub, answer)


async def test_a_worker_that_stays_away_ends_the_answer_with_what_was_kept(stack: Stack) -> None:
    endless(stack)
    stub = await stack.stub(await stack.router(worker_patience_s=0.3))
    reading = await Reading(stub, ask_for(policy={"llm_only": {}}, max_new_tokens=500)).has(20)
    await stack.llm.stop()
    answer = await reading
    assert answer.error is not None
    assert answer.error.code is grpc.StatusCode.UNAVAILABLE
    assert answer.error.remedy
    assert answer.error.metadata["session_id"] == answer.session_id
    assert answer.error.metadata["resume_from"] == str(answer.next)
    assert answer.tokens
    assert await state_of(stub, answer.session_id) == INTERRUPTED
    await check_kept(stub, answer)

    await stack.llm.start()
    stack.llm.delay_s = 0
    stub = await stack.stub(await stack.router())
    whole = glued(answer, await take(stub, resume(answer)))
    assert whole.tokens == algorithm_1(stack.slm.model, stack.llm.model, (7, 8, 9), -1, -1, 500)[0]
    assert (await check_kept(stub, whole)).state == FINISHED


async def test_a_worker_that_fails_again_and_again_is_named(stack: Stack) -> None:
    endless(stack, 0)
    stub = await stack.stub(await stack.router(worker_patience_s=0.3))
    stack.slm.errors = [RstitchError(grpc.StatusCode.UNKNOWN, "TRANSPORT", "Stream removed")] * 100
    answer = await take(stub, ask_for(policy=threshold(0.5), max_new_tokens=20))
    assert answer.error is not None
    assert (answer.error.code, answer.error.reason) == (grpc.StatusCode.UNAVAILABLE, "WORKER_UNAVAILABLE")
    assert stack.slm.address in answer.error.message
    assert "Stream removed" in answer.error.message
    assert answer.error.metadata["resume_from"] == "3"
    assert answer.error.remedy


async def test_no_room_for_long_ends_the_answer_resumably(stack: Stack) -> None:
    endless(stack, 0)
    stub = await stack.stub(await stack.router(capacity_patience_s=0.2))
    full = RstitchError(grpc.StatusCode.RESOURCE_EXHAUSTED, "NO_CAPACITY", "full", retry_after_s=0.02)
    stack.slm.errors = [full] * 100
    answer = await take(stub, ask_for(policy=threshold(0.5), max_new_tokens=20))
    assert answer.error is not None
    assert (answer.error.code, answer.error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "NO_CAPACITY")
    assert await state_of(stub, answer.session_id) == INTERRUPTED
    stack.slm.errors.clear()
    assert glued(answer, await take(stub, resume(answer))).tokens == expected(stack, 20)[0]


async def test_readers_may_leave_and_join_at_any_token(stack: Stack) -> None:
    endless(stack)
    stub = await stack.stub(await stack.router())
    rng = random.Random(1)
    answer = await take(stub, ask_for(policy=threshold(0.5), max_new_tokens=100), num_tokens=3)
    others = [asyncio.create_task(take(stub, resume(answer))) for _ in range(3)]
    while answer.finished is None:
        part = await take(stub, resume(answer), num_tokens=rng.randrange(1, 12))
        glued(answer, part)
    assert (answer.tokens, answer.authors) == expected(stack, 100)
    for other in await asyncio.gather(*others):
        assert other.error is None
        assert other.tokens == answer.tokens[other.position - 3 :]
        assert other.finished == answer.finished
    # Long after the end, from anywhere, it is still the same; before the first token means that token.
    for position in (0, 3, 50, 103):
        again = await take(stub, router_pb2.GenerateRequest(session_id=answer.session_id, resume_from=position))
        assert again.tokens == answer.tokens[max(position, 3) - 3 :]
        assert again.finished == answer.finished
    assert len(stack.slm.sessions) <= 1
    await check_kept(stub, answer)


async def test_a_deadline_costs_the_answer_nothing(stack: Stack) -> None:
    endless(stack)
    stub = await stack.stub(await stack.router())
    stack.llm.pace = lambda: until(lambda: deadline_passed)
    deadline_passed = False
    answer = await take(stub, ask_for(policy=threshold(0.5), max_new_tokens=100, session_id="s"), timeout=2)
    assert answer.error is not None
    assert answer.error.code is grpc.StatusCode.DEADLINE_EXCEEDED
    deadline_passed = True
    answer.error = None
    assert glued(answer, await take(stub, resume(answer))).tokens == expected(stack, 100)[0]


async def test_an_answer_nobody_reads_is_interrupted_and_its_workers_freed(stack: Stack) -> None:
    endless(stack, 0.01)
    router = await stack.router(detach_grace_s=0.2)
    stub = await stack.stub(router)
    answer = await take(stub, ask_for(policy=threshold(0.5), max_new_tokens=200), num_tokens=2)
    await until(lambda: router.sessions.num_running == 0)
    await until(lambda: stack.slm.num_streams == stack.llm.num_streams == 0)
    kept = await stored(stub, answer.session_id)
    assert kept.state == INTERRUPTED
    assert 3 + 2 <= kept.length < 203
    stack.slm.delay_s = stack.llm.delay_s = 0
    assert glued(answer, await take(stub, resume(answer))).tokens == expected(stack, 200)[0]


async def test_whoever_asked_is_not_nobody_before_the_first_read(stack: Stack) -> None:
    endless(stack, 0)
    stub = await stack.stub(await stack.router(detach_grace_s=0))
    assert (await take(stub, ask_for(policy=threshold(0.5), max_new_tokens=30))).tokens == expected(stack, 30)[0]


async def test_a_drained_router_gives_up_its_lease_for_good(stack: Stack) -> None:
    router = await stack.router(lease_s=0.3)
    key = keys.router(router.lease.router_id)
    async with Redis.from_url(stack.redis_url) as client:
        await until(lambda: client.exists(key))
        await router.sessions.drain()
        with pytest.raises(TimeoutError):  # in twice the time within which it would be renewed
            async with asyncio.timeout(0.3):
                await until(lambda: client.exists(key))


async def test_an_answer_that_begins_during_a_drain_is_interrupted_too(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless(stack)
    router = await stack.router()
    stub = await stack.stub(router)
    claimed, drained = asyncio.Event(), asyncio.Event()
    inner = router.store.claim

    async def slow(*arguments: Any) -> Any:
        outcome = await inner(*arguments)
        claimed.set()
        await drained.wait()
        return outcome

    monkeypatch.setattr(router.store, "claim", slow)
    asking = asyncio.create_task(take(stub, ask_for(policy=threshold(0.5), max_new_tokens=900)))
    await claimed.wait()
    await router.sessions.drain()
    drained.set()
    answer = await asking
    assert answer.error is not None
    assert answer.error.reason == "ROUTER_DRAINING"
    assert await state_of(stub, answer.session_id) == INTERRUPTED


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
        error = await refused(other.Generate(attach))
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "OWNED_ELSEWHERE")
        assert error.retry_after_s
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


async def test_lost_connections_to_redis_cost_nothing(stack: Stack) -> None:
    """Replies of appends are lost among them."""
    endless(stack)
    stub = await stack.stub(await stack.router())
    reading, num_killed = Reading(stub, ask_for(policy=threshold(0.5), max_new_tokens=150)), 0
    async with Redis.from_url(stack.redis_url) as client:
        while not reading.is_over:
            num_before = len(reading.answer.tokens)
            num_killed += await client.client_kill_filter(_type="normal", skipme=True)
            await until(lambda num=num_before: reading.is_over or len(reading.answer.tokens) > num)
    answer = await reading
    assert num_killed > 5
    assert answer.error is None
    assert (answer.tokens, answer.authors) == expected(stack, 150)
    await check_kept(stub, answer)


async def test_redis_that_forgot_all_ends_that_answer_only(stack: Stack, redis_process: RedisProcess) -> None:
    endless(stack)
    router = await stack.router(redis_patience_s=5.0)
    stub = await stack.stub(router)
    reading = await Reading(stub, ask_for(policy=threshold(0.5), max_new_tokens=300)).has(20)
    redis_process.stop()
    redis_process.start()
    answer = await reading
    assert answer.error is not None
    assert (answer.error.code, answer.error.reason) == (grpc.StatusCode.ABORTED, "DELETED")
    stack.slm.delay_s = stack.llm.delay_s = 0
    fresh = await take(stub, ask_for(policy=threshold(0.5), max_new_tokens=30))
    assert fresh.tokens == expected(stack, 30)[0]
    assert router.sessions.num_running == 0


async def test_redis_that_stays_away_ends_the_answer_with_what_was_kept(
    stack: Stack, redis_process: RedisProcess
) -> None:
    endless(stack)
    stub = await stack.stub(await stack.router(redis_patience_s=0.3))
    reading = await Reading(stub, ask_for(policy=threshold(0.5), max_new_tokens=500)).has(20)
    redis_process.stop()
    try:
        answer = await reading
        assert answer.error is not None
        assert (answer.error.code, answer.error.reason) == (grpc.StatusCode.UNAVAILABLE, "REDIS_UNAVAILABLE")
        assert answer.error.metadata["session_id"] == answer.session_id
        assert answer.error.metadata["resume_from"] == str(answer.next)
        assert answer.error.remedy
        # Nothing was shown that was not stored.
        assert answer.tokens == expected(stack, 500)[0][: len(answer.tokens)]
        error = await refused(stub.Generate(ask_for()))
        assert error.reason == "REDIS_UNAVAILABLE"
        status = await stub.GetStatus(router_pb2.GetStatusRequest())
        assert not status.ready
        assert stack.redis_url in status.detail
    finally:
        redis_process.start()


async def test_answers_that_redis_could_not_be_told_of_are_free_once_it_is_back(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their router lives on; without that, no other one could go on with them."""
    endless(stack)
    first, second = await stack.router(), await stack.router()
    stub = await stack.stub(first)
    readings = [Reading(stub, ask_for(policy=threshold(0.5), max_new_tokens=400)) for _ in range(3)]
    for reading in readings:
        await reading.has(20)
    inner = first.store.append

    async def without_reply(*arguments: Any) -> None:
        await inner(*arguments)
        raise RstitchError(grpc.StatusCode.UNAVAILABLE, "REDIS_UNAVAILABLE", "away")

    monkeypatch.setattr(first.store, "append", without_reply)
    answers = [await reading for reading in readings]
    monkeypatch.undo()
    assert {answer.error.reason for answer in answers if answer.error} == {"REDIS_UNAVAILABLE"}
    other = await stack.stub(second)

    async def freed() -> bool:
        return all([await state_of(other, answer.session_id) == INTERRUPTED for answer in answers])

    await until(freed)
    stack.slm.delay_s = stack.llm.delay_s = 0
    for answer in answers:
        answer.error = None
        assert glued(answer, await take(other, resume(answer))).tokens == expected(stack, 400)[0]


async def test_a_deleted_answer_stops_and_is_gone(stack: Stack) -> None:
    endless(stack)
    stub = await stack.stub(await stack.router())
    reading = await Reading(stub, ask_for(policy=threshold(0.5), max_new_tokens=500, session_id="gone")).has(20)
    await stub.DeleteTrajectory(router_pb2.DeleteTrajectoryRequest(session_id="gone"))
    answer = await reading
    assert answer.error is not None
    assert (answer.error.code, answer.error.reason) == (grpc.StatusCode.ABORTED, "DELETED")
    assert "gone" in stack.slm.closed
    assert "gone" in stack.llm.closed
    for call in (
        stub.GetTrajectory(router_pb2.GetTrajectoryRequest(session_id="gone")),
        stub.DeleteTrajectory(router_pb2.DeleteTrajectoryRequest(session_id="gone")),
        stub.Generate(router_pb2.GenerateRequest(session_id="gone", resume_from=0)),
    ):
        error = await refused(call)
        assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_SESSION")
    listed = await stub.ListTrajectories(router_pb2.ListTrajectoriesRequest())
    assert not listed.trajectories
