"""Workers fail; the answer is the same, or ends with what was kept and can be gone on with."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import grpc
import pytest

from router_svc.workers import streams
from rstitch.errors import RstitchError
from tests.support.asking import Reading, ask_for, check_kept, take, threshold, until
from tests.support.endless import FINISHED, INTERRUPTED, endless, expected, glued, resume, state_of
from tests.support.toy import algorithm_1
from tests.support.toy_stack import Stack


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

    monkeypatch.setattr(streams, "_reply", unreadable)
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


async def test_an_answer_that_kept_nothing_stores_no_time(stack: Stack) -> None:
    """What the claim took belongs to the answer that goes on; stored beside a total of 0 it would be more than all."""
    router = await stack.router(worker_patience_s=0.1)
    stub = await stack.stub(router)
    await stack.slm.stop()
    answer = await take(stub, ask_for(policy=threshold(0.5), max_new_tokens=20))
    assert answer.error is not None
    stored = await router.store.trajectory(answer.session_id)
    assert stored is not None
    assert (stored.header.usage.total_time_us, stored.header.usage.breakdown.store_us) == (0, 0)


async def test_a_worker_that_fails_again_and_again_is_named(stack: Stack) -> None:
    endless(stack, 0)
    stub = await stack.stub(await stack.router(worker_patience_s=0.3))
    stack.slm.errors = [RstitchError(grpc.StatusCode.UNKNOWN, "TRANSPORT", "Stream removed")] * 100
    answer = await take(stub, ask_for(policy=threshold(0.5), max_new_tokens=20))
    assert answer.error is not None
    assert (answer.error.code, answer.error.reason) == (grpc.StatusCode.UNAVAILABLE, "WORKER_UNAVAILABLE")
    assert "SLM" in answer.error.message
    assert stack.slm.address not in str(answer.error)
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
