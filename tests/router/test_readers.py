"""Readers leave, join, come late or delete; nobody loses or repeats a token."""

from __future__ import annotations

import asyncio
import random

import grpc

from rstitch.v1 import router_pb2
from tests.support.asking import Reading, ask_for, check_kept, refused, stored, take, threshold, until
from tests.support.endless import INTERRUPTED, endless, expected, glued, resume
from tests.support.toy_stack import Stack


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
