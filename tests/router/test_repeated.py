"""A question that comes again under its request id is asked once, and whoever sent it reads the one answer."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import grpc
import pytest

from rstitch.client import Threshold
from rstitch.client.aio import AsyncClient
from rstitch.errors import RstitchError
from rstitch.v1 import router_pb2
from tests.support.asking import Answer, Reading, ask_for, check_kept, refused, stored, take, threshold, until
from tests.support.endless import FINISHED, INTERRUPTED, at_once, endless, expected, state_of
from tests.support.toy_stack import Stack

FIRST = (7, 8, 9)


def asked(request_id: str = "one", **fields: Any) -> router_pb2.GenerateRequest:
    given = {"session_id": "s", "request_id": request_id, "policy": threshold(0.5), "max_new_tokens": 8}
    return ask_for(FIRST, **{**given, **fields})


def same(answers: list[Answer]) -> bool:
    """Whether all read one answer from its first token to its end."""
    first = answers[0]
    for each in answers:
        assert each.error is None, each.error
        assert (each.session_id, each.position, each.finished) == (first.session_id, first.position, first.finished)
        assert (each.tokens, each.authors, each.entropies) == (first.tokens, first.authors, first.entropies)
    return True


async def num_prompts(stub: Any) -> int:
    return [segment.source for segment in (await stored(stub, "s")).segments].count(router_pb2.SOURCE_PROMPT)


async def conversing(stack: Stack, num_routers: int) -> list[Any]:
    """Stubs of routers that have a session with one answer."""
    stubs = [await stack.stub(await stack.router()) for _ in range(num_routers)]
    assert (await take(stubs[0], asked("before"))).error is None
    return stubs


@pytest.mark.parametrize("only_if_new", [False, True])
@pytest.mark.parametrize("num_routers", [1, 2])
async def test_many_at_once_are_one_question(stack: Stack, num_routers: int, only_if_new: bool) -> None:
    stubs = [await stack.stub(await stack.router()) for _ in range(num_routers)]
    request = asked(only_if_new=only_if_new)
    assert same(await asyncio.gather(*(take(stub, request) for stub in stubs * 8)))
    assert await num_prompts(stubs[0]) == 1


@pytest.mark.parametrize("num_routers", [1, 2])
async def test_many_follow_ups_at_once_are_one_question(stack: Stack, num_routers: int) -> None:
    stubs = await conversing(stack, num_routers)
    told = await asyncio.gather(*(take(stub, asked()) for stub in stubs * 8))
    assert same(told)
    assert await num_prompts(stubs[0]) == 2
    await check_kept(stubs[0], told[0])


async def test_a_finished_answer_is_read_again(stack: Stack) -> None:
    stubs = await conversing(stack, 2)
    first = await take(stubs[0], asked())
    assert same([first, *[await take(stub, asked()) for stub in stubs]])
    assert await num_prompts(stubs[0]) == 2


async def test_a_running_answer_is_joined_where_it_runs_and_elsewhere(stack: Stack) -> None:
    stubs = await conversing(stack, 2)
    endless(stack, delay_s=0)
    go_on = at_once(stack, 12)
    again = [await Reading(stub, asked(max_new_tokens=30)).has(5) for stub in (stubs[0], *stubs)]
    go_on.set()
    assert same([await reading for reading in again])
    assert await num_prompts(stubs[0]) == 2


async def test_an_interrupted_answer_is_gone_on_with(stack: Stack) -> None:
    endless(stack, delay_s=0)
    go_on = at_once(stack, 12)
    first, second = await stack.router(), await stack.router()
    stub, other = await stack.stub(first), await stack.stub(second)
    reading = await Reading(stub, asked(max_new_tokens=40)).has(5)
    await first.sessions.drain()
    lost = await reading
    assert await state_of(other, "s") == INTERRUPTED
    go_on.set()
    whole = await take(other, asked(max_new_tokens=40))
    assert (whole.error, whole.position) == (None, lost.position)
    assert (whole.tokens, whole.authors) == expected(stack, 40)
    assert whole.tokens[: len(lost.tokens)] == lost.tokens
    assert (await stored(other, "s")).state == FINISHED
    assert await num_prompts(other) == 1


async def test_an_answer_whose_router_died_is_gone_on_with(stack: Stack) -> None:
    endless(stack, delay_s=0)
    go_on = at_once(stack, 12)
    first, second = await stack.router(), await stack.router()
    stub, other = await stack.stub(first), await stack.stub(second)
    reading = await Reading(stub, asked(max_new_tokens=40)).has(5)
    first.lease.renew = lambda: asyncio.sleep(0)  # type: ignore[method-assign]
    again = Reading(other, asked(max_new_tokens=40))
    await until(lambda: again.answer.session_id)  # before that the first may end it: nobody else has claimed it
    go_on.set()
    assert (await again).tokens == expected(stack, 40)[0]
    assert (await reading).error is not None


@pytest.mark.parametrize("is_new", [True, False], ids=["a new session", "a conversation"])
async def test_a_client_whose_router_was_lost_before_it_said_started_has_the_answer(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, is_new: bool
) -> None:
    router = await stack.router()
    stub = await stack.stub(router)
    if not is_new:
        assert (await take(stub, asked("before"))).error is None
    inner, lost = router.sessions.begin, list[str]()

    async def begin(*arguments: Any) -> Any:
        log = await inner(*arguments)
        if not lost:
            lost.append(log.session_id)
            log.was_left()
            raise RstitchError(grpc.StatusCode.UNAVAILABLE, "ROUTER_DRAINING", "it stops.", retry_after_s=0.01)
        return log

    monkeypatch.setattr(router.sessions, "begin", begin)
    async with AsyncClient(f"127.0.0.1:{router.port}") as client:
        answer = await client.answer(tokens=FIRST, policy=Threshold(0.5), max_new_tokens=8, session_id="s")
    assert lost == ["s"]
    tokens = [token for chunk in answer.chunks for token in chunk.tokens]
    kept = [token for segment in (await stored(stub, "s")).segments for token in segment.tokens]
    assert tokens
    assert kept[-len(tokens) - len(FIRST) :] == [*FIRST, *tokens]
    assert await num_prompts(stub) == (1 if is_new else 2)


async def test_another_id_is_another_question(stack: Stack) -> None:
    stubs = await conversing(stack, 2)
    endless(stack, delay_s=0)
    go_on = at_once(stack, 12)
    reading = await Reading(stubs[0], asked(max_new_tokens=30)).has(5)
    for stub in stubs:
        for other in ("two", ""):
            assert (await refused(stub.Generate(asked(other)))).reason == "SESSION_RUNNING"
            new = asked(other, only_if_new=True)
            assert (await refused(stub.Generate(new))).reason == "SESSION_EXISTS"
    go_on.set()
    assert (await reading).error is None
    for other in ("two", "", "", "two"):
        assert (await take(stubs[1], asked(other))).error is None
    assert await num_prompts(stubs[0]) == 6


async def test_only_the_last_question_is_known(stack: Stack) -> None:
    stubs = await conversing(stack, 1)
    assert (await take(stubs[0], asked())).error is None
    late = await refused(stubs[0].Generate(asked("before", only_if_new=True)))
    assert late.reason == "SESSION_EXISTS"
    assert (await take(stubs[0], asked("before"))).error is None
    assert await num_prompts(stubs[0]) == 3


async def test_the_claim_decides_where_nobody_saw_the_other(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, fast = await stack.router(), await stack.router()
    stub, other = await stack.stub(slow), await stack.stub(fast)
    assert (await take(stub, asked("before"))).error is None
    inner, won = slow.store.claim, list[Answer]()

    async def claim(*arguments: Any) -> Any:
        if not won:
            won.append(await take(other, asked()))
        return await inner(*arguments)

    monkeypatch.setattr(slow.store, "claim", claim)
    assert same([await take(stub, asked()), *won])
    assert await num_prompts(stub) == 2


async def test_what_went_on_between_two_looks_is_not_told_as_its_answer(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = await stack.router()
    stub = await stack.stub(router)
    assert (await take(stub, asked())).error is None
    inner = router.sessions.attach

    async def attach(*arguments: Any) -> Any:
        assert (await take(stub, asked("two"))).error is None
        return await inner(*arguments)

    monkeypatch.setattr(router.sessions, "attach", attach)
    error = await refused(stub.Generate(asked()))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ANSWER_OVER")


async def test_a_full_router_gives_the_answer_that_it_writes(stack: Stack) -> None:
    endless(stack, delay_s=0)
    go_on = at_once(stack, 12)
    stub = await stack.stub(await stack.router(max_running=1))
    both = [await Reading(stub, asked(max_new_tokens=30)).has(5) for _ in range(2)]
    assert (await refused(stub.Generate(asked(session_id="another")))).reason == "TOO_MANY_ANSWERS"
    go_on.set()
    assert same([await reading for reading in both])


@pytest.mark.parametrize(
    "wrong",
    [{"request_id": "a b"}, {"request_id": "a" * 129}, {"request_id": "one", "session_id": ""}],
    ids=["characters", "length", "no session"],
)
async def test_an_id_that_cannot_be_known_again_is_refused(stack: Stack, wrong: dict[str, str]) -> None:
    stub = await stack.stub(await stack.router())
    error: RstitchError = await refused(stub.Generate(asked(**wrong)))
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "request_id")


@pytest.mark.parametrize("where", ["finished", "here", "elsewhere", "interrupted"])
async def test_an_answer_is_gone_on_with_only_if_it_is_that_of_the_question(stack: Stack, where: str) -> None:
    """Whoever says which question they mean gets no other answer, and asks nothing."""
    stubs = await conversing(stack, 2)
    attach = partial(router_pb2.GenerateRequest, session_id="s", resume_from=0)
    endless(stack, delay_s=0)
    go_on = at_once(stack, 1000 if where == "finished" else 12)
    reading = await Reading(stubs[0], asked(max_new_tokens=30)).has(5)
    if where == "finished":
        await reading
    if where == "interrupted":
        await stubs[0].CancelGeneration(router_pb2.CancelGenerationRequest(session_id="s"))
    stub = stubs[where == "elsewhere"]
    other = await refused(stub.Generate(attach(request_id="before")))
    assert (other.code, other.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ANSWER_OVER")
    rest = asyncio.ensure_future(take(stub, attach(request_id="one")))
    go_on.set()
    answer = await rest
    assert answer.error is None
    assert len(answer.tokens) == 30
    await check_kept(stub, answer)
    assert await num_prompts(stub) == 2
    unknown = await refused(stub.Generate(router_pb2.GenerateRequest(session_id="t", resume_from=0, request_id="one")))
    assert unknown.code is grpc.StatusCode.NOT_FOUND
