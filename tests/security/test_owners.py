"""What is a tenant's is nobody else's: sessions and lists by whatever method, and what is said of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import grpc
import pytest
from redis.asyncio import Redis

from rstitch.v1 import router_pb2 as pb
from tests.security.conftest import AsTenant
from tests.support.asking import Answer, Reading, ask_for, check_kept, refused, stored, take, threshold, until
from tests.support.endless import at_once, endless, expected, glued, resume
from tests.support.toy_stack import Stack

# Of one length: what is told of one differs from what is told of the other by the letters alone.
THEIRS, NOBODYS = "session-theirs", "session-nobody"
BY_SLM = threshold(1.0)
# All that can be asked of a session, but for a question in it.
METHODS: dict[str, Callable[[Any, str], Any]] = {
    "get": lambda stub, name: stub.GetTrajectory(pb.GetTrajectoryRequest(session_id=name)),
    "label": lambda stub, name: stub.LabelTrajectory(pb.LabelTrajectoryRequest(session_id=name, label=pb.LABEL_WRONG)),
    "cancel": lambda stub, name: stub.CancelGeneration(pb.CancelGenerationRequest(session_id=name)),
    "delete": lambda stub, name: stub.DeleteTrajectory(pb.DeleteTrajectoryRequest(session_id=name)),
    "observe": lambda stub, name: stub.ObserveAnswer(pb.ObserveAnswerRequest(session_id=name, tau=0.5)),
    "attach": lambda stub, name: stub.Generate(ask_for(session_id=name, resume_from=0)),
}


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Any]:
    async with Redis.from_url(redis_url) as client:
        yield client


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call if isinstance(call, grpc.aio.UnaryUnaryCall) else call.read())
    return caught.value


async def told(call: Any, session_id: str) -> tuple[Any, ...]:
    """All that a refusal says, to the last byte, without the id that was asked for."""
    error = await failure(call)
    details = [
        (key, value.replace(session_id.encode(), b"ID") if isinstance(value, bytes) else value)
        for metadata in (error.initial_metadata(), error.trailing_metadata())
        for key, value in metadata
    ]
    return error.code(), (error.details() or "").replace(session_id, "ID"), details


async def work_of(redis: Any, call: Callable[[], Any]) -> dict[str, int]:
    """What Redis was asked for a call, by command; without the router's lease, which is renewed beside it."""
    await redis.config_resetstat()
    await failure(call())  # a call begins when it is made
    commands = await redis.info("commandstats")
    return {
        name.removeprefix("cmdstat_"): facts["calls"]
        for name, facts in commands.items()
        if not name.startswith(("cmdstat_config", "cmdstat_info", "cmdstat_client", "cmdstat_set"))
    }


async def has_written(stub: Any, num: int) -> bool:
    page = await stub.ListTrajectories(pb.ListTrajectoriesRequest())
    return bool(page.trajectories) and page.trajectories[0].length == 3 + num


@pytest.mark.parametrize(("owner", "other"), [("acme", "umbrella"), ("acme", ""), ("", "acme")])
@pytest.mark.parametrize("is_running", [False, True], ids=["finished", "running"])
async def test_a_session_of_another_tenant_is_as_one_that_nobody_has(
    stack: Stack, as_tenant: AsTenant, redis: Any, owner: str, other: str, is_running: bool
) -> None:
    endless(stack, delay_s=0)
    router = await stack.router(lease_s=30)
    mine, stub = await as_tenant(router, owner), await as_tenant(router, other)
    go_on = at_once(stack, 8)
    if not is_running:
        go_on.set()
    reading = Reading(mine, ask_for(session_id=THEIRS, policy=BY_SLM, max_new_tokens=30))
    before = None
    if is_running:
        await until(partial(has_written, mine, 8))
        error = await refused(mine.Generate(ask_for(session_id=THEIRS)))
        assert (error.reason, error.metadata["session_id"]) == ("SESSION_RUNNING", THEIRS)
        assert error.message == f"an answer is being written in session {THEIRS}."
        error = await refused(METHODS["label"](mine, THEIRS))
        assert error.message == f"the last answer of session {THEIRS} is being written."
    else:
        await reading
        await METHODS["label"](mine, THEIRS)
        before = await stored(mine, THEIRS)
    for method in METHODS.values():
        unknown = await told(method(stub, NOBODYS), NOBODYS)
        assert unknown[:2] == (grpc.StatusCode.NOT_FOUND, "there is no session ID; it may have been forgotten.")
        assert await told(method(stub, THEIRS), THEIRS) == unknown
        work = await work_of(redis, partial(method, stub, NOBODYS))
        assert work
        assert await work_of(redis, partial(method, stub, THEIRS)) == work
    assert not stack.slm.closed + stack.llm.closed + stack.slm.observed

    # A question begins a session of the caller's own, beside the other one.
    go_on.set()
    theirs = await take(stub, ask_for((5, 6), session_id=THEIRS, policy=BY_SLM, max_new_tokens=12))
    assert (theirs.error, theirs.session_id, theirs.num_prompt_tokens) == (None, THEIRS, 2)
    assert (theirs.tokens, theirs.authors) == expected(stack, 12, 1.0, (5, 6))
    answer = await reading
    assert (answer.tokens, answer.authors) == expected(stack, 30, 1.0)
    after = await check_kept(mine, answer)
    assert before in (None, after)
    await check_kept(stub, theirs)
    # What is deleted is the caller's, and only that.
    await METHODS["delete"](stub, THEIRS)
    assert await stored(mine, THEIRS) == after
    assert (await refused(METHODS["get"](stub, THEIRS))).reason == "UNKNOWN_SESSION"


async def test_nobody_can_spell_a_session_of_another_tenant(stack: Stack, as_tenant: AsTenant) -> None:
    router = await stack.router()
    await take(await as_tenant(router, "acme"), ask_for(session_id="s", max_new_tokens=3))
    for tenant in ("", "acme", "umbrella"):
        stub = await as_tenant(router, tenant)
        for spelled in ("acme:s", "acme/s", ":s", "*", "acme:*", "s\nDEL x", "s\0", "{s}"):
            for method in METHODS.values():
                error = await refused(method(stub, spelled))
                assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "session_id")
            error = await refused(stub.Generate(ask_for(session_id=spelled)))
            assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "session_id")


async def listed(stub: Any, token: str = "", **fields: Any) -> tuple[list[list[str]], list[str]]:
    """The ids of all pages of two, and the tokens between them."""
    pages, tokens = [], []
    while True:
        request = pb.ListTrajectoriesRequest(page_size=2, page_token=token, **fields)
        reply = await stub.ListTrajectories(request)
        pages.append([each.session_id for each in reply.trajectories])
        token = reply.next_page_token
        if not token:
            return pages, tokens
        tokens.append(token)


async def test_a_list_is_of_its_tenant_and_so_is_its_page_token(stack: Stack, as_tenant: AsTenant, redis: Any) -> None:
    router = await stack.router()
    names = {"": ["a", "b", "c"], "acme": ["a", "b", "c", "d", "e"], "umbrella": ["b", "x", "y"]}
    stubs = {tenant: await as_tenant(router, tenant) for tenant in [*names, "newcomer"]}
    await asyncio.gather(
        *(take(stubs[tenant], ask_for(session_id=name, max_new_tokens=1)) for tenant in names for name in names[tenant])
    )
    for tenant, name in (("acme", "a"), ("acme", "c"), ("acme", "e"), ("umbrella", "x")):
        await METHODS["label"](stubs[tenant], name)
    for key in [*await redis.keys("rstitch:{*}:trajectories"), *await redis.keys("rstitch:{*}:labelled")]:
        await redis.zadd(key, dict.fromkeys(await redis.zrange(key, 0, -1), 2000000000000))  # all at one moment

    assert await listed(stubs["newcomer"]) == ([[]], [])
    assert (await listed(stubs["umbrella"], labelled=True))[0] == [["x"]]
    assert (await listed(stubs[""], labelled=True))[0] == [[]]
    tokens = {}
    for tenant, own in names.items():
        found, tokens[tenant] = await listed(stubs[tenant])
        assert found == [own[::-1][at : at + 2] for at in range(0, len(own), 2)]
    labelled, of_labelled = await listed(stubs["acme"], labelled=True)
    assert labelled == [["e", "c"], ["a"]]

    async def says(tenant: str, token: str, **fields: Any) -> Any:
        request = pb.ListTrajectoriesRequest(page_token=token, **fields)
        return await told(stubs[tenant].ListTrajectories(request), token)

    nonsense = await says("acme", "nonsense")
    assert nonsense[0] is grpc.StatusCode.INVALID_ARGUMENT
    for tenant in tokens:
        for other in tokens.keys() - {tenant}:
            assert await says(other, tokens[tenant][0]) == nonsense
        assert await says(tenant, tokens[tenant][0], labelled=True) == nonsense
    assert await says("acme", of_labelled[0]) == nonsense
    # Of the same list it is good, also for another page size, and as often as it is sent.
    assert (await listed(stubs["acme"], of_labelled[0], labelled=True))[0] == [["a"]]


async def test_tenants_have_one_id_and_go_on_elsewhere_with_their_own(stack: Stack, as_tenant: AsTenant) -> None:
    endless(stack, delay_s=0)
    prompts = {"acme": (7, 8, 9), "umbrella": (9, 8, 7), "": (5, 5, 5)}
    first, second = await stack.router(), await stack.router()
    go_on = at_once(stack, 8)

    async def begun(tenant: str) -> Reading:
        question = ask_for(prompts[tenant], session_id="s", policy=BY_SLM, max_new_tokens=50)
        return await Reading(await as_tenant(first, tenant), question).has(3)

    cut = dict(zip(prompts, await asyncio.gather(*map(begun, prompts)), strict=True))
    # To everybody else it is gone: it would go on writing, but its lease runs out.
    first.lease.renew = lambda: asyncio.sleep(0)  # type: ignore[method-assign]
    others = {tenant: await as_tenant(second, tenant) for tenant in prompts}
    attached = {tenant: Reading(others[tenant], ask_for(session_id="s", resume_from=0)) for tenant in prompts}
    await until(lambda: second.sessions.num_running == len(prompts))
    go_on.set()
    for tenant, prompt in prompts.items():
        answer, before = await attached[tenant], await cut[tenant]
        assert answer.error is None
        assert (answer.tokens, answer.authors) == expected(stack, 50, 1.0, prompt)
        assert before.error is not None
        assert (before.error.reason, before.error.metadata["session_id"]) == ("TAKEN_OVER", "s")
        assert "acme" not in str(before.error)
        assert before.tokens == answer.tokens[: len(before.tokens)]
        assert (await check_kept(others[tenant], answer)).epoch == 2
        # Whoever has read a half goes on with the other half of its own.
        half = Answer(session_id="s", position=3, tokens=answer.tokens[:20], authors=answer.authors[:20])
        assert glued(half, await take(others[tenant], resume(half))).tokens == answer.tokens
