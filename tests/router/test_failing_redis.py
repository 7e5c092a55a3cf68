"""Redis fails; nothing is shown that is not stored, and answers go on where they can."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from redis.asyncio import Redis

from rstitch.errors import RstitchError
from rstitch.v1 import router_pb2
from tests.support.asking import Reading, ask_for, check_kept, refused, take, threshold, until
from tests.support.endless import INTERRUPTED, endless, expected, glued, resume, state_of
from tests.support.redis_process import RedisProcess
from tests.support.toy_stack import Stack


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
        assert "Redis" in status.detail
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
    monkeypatch.setattr(first.store, "append_once", lambda *arguments: arguments[-1](None))
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
