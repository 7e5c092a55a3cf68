"""What a key may take, over all routers: exactly that, and what is held by whoever dies comes back."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError
from typer.testing import CliRunner

from router_svc.access.__main__ import app
from router_svc.access.quotas import Use
from router_svc.main import Router
from rstitch.channels import client_options
from rstitch.errors import RstitchError
from rstitch.service import semconv
from rstitch.service.caller import Limits
from rstitch.service.metrics import setup_metrics
from rstitch.v1 import router_pb2, router_pb2_grpc
from tests.support.asking import Answer, Reading, ask_for, take, threshold, until
from tests.support.endless import at_once, endless, expected, resume
from tests.support.keys import Shown, make, put
from tests.support.otlp_receiver import MetricsReceiver
from tests.support.toy_stack import Stack

PIPE = asyncio.subprocess.PIPE


class Keyed:
    """A stub whose calls show a key."""

    def __init__(self, stub: Any, shown: Shown) -> None:
        self._stub = stub
        self._shown = shown

    def __getattr__(self, name: str) -> Any:
        return partial(getattr(self._stub, name), metadata=self._shown.metadata)


async def key(stack: Stack, **limits: int) -> Shown:
    """A key with these limits, which routers know that start from now on."""
    shown = make(limits=Limits(**limits))
    await put(stack.redis_url, shown)
    return shown


async def asking(stack: Stack, router: Router, shown: Shown) -> Keyed:
    return Keyed(await stack.stub(router), shown)


async def routing(stack: Stack, shown: Shown, **changes: Any) -> tuple[Router, Keyed]:
    """A router that asks for keys, and who shows it one; its lease lasts longer than any test does without looking."""
    router = await stack.router(**{"keys": "redis", "lease_s": 15, **changes})
    return router, await asking(stack, router, shown)


def long(**fields: Any) -> router_pb2.GenerateRequest:
    return ask_for(policy=threshold(0.5), max_new_tokens=3000, **fields)


def short(**fields: Any) -> router_pb2.GenerateRequest:
    return ask_for(policy=threshold(0.5), **{"max_new_tokens": 8, **fields})


def exceeded(answer: Answer) -> RstitchError:
    """The refusal of a quota, which an answer must be."""
    error = answer.error
    assert error is not None
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    assert error.retry_after_s is not None
    assert error.retry_after_s > 0
    assert error.remedy
    figures = {name: int(error.metadata[name]) for name in ("limit", "used", "remaining")}
    assert figures["remaining"] == max(0, figures["limit"] - figures["used"])
    return error


async def use(router: Router, shown: Shown) -> Use:
    return await router.quotas.use(shown.key.caller())


async def test_exactly_as_many_requests_pass_over_two_routers(stack: Stack) -> None:
    shown, other = await key(stack, requests_per_minute=10), await key(stack, requests_per_minute=10)
    routers = [await stack.router(keys="redis") for _ in range(2)]
    stubs = [await asking(stack, router, shown) for router in routers]
    answers = await asyncio.gather(*(take(stubs[num % 2], short(max_new_tokens=1)) for num in range(200)))
    refused = [exceeded(answer) for answer in answers if answer.error]
    assert len(refused) == 190
    assert {error.metadata["quota"] for error in refused} == {"requests_per_minute"}
    assert {error.metadata["used"] for error in refused} == {"10"}
    assert (await take(await asking(stack, routers[0], other), short())).error is None, "another key has its own"


async def test_exactly_as_many_answers_run_over_two_routers(stack: Stack) -> None:
    shown = await key(stack, max_running=10)
    endless(stack, 0.05)
    routers, stubs = zip(*[await routing(stack, shown, detach_grace_s=0) for _ in range(2)], strict=True)
    asked = {asyncio.create_task(take(stubs[num % 2], long(session_id=f"s{num}"))): num for num in range(200)}
    running = set(asked)
    async with asyncio.timeout(90):  # if more than ten run, nobody else ends this
        while len(running) > 10:
            over, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            assert {exceeded(answer.result()).metadata["quota"] for answer in over} == {"max_running"}
    assert len(running) == 10
    assert sum(router.sessions.num_running for router in routers) == 10
    assert (await use(routers[0], shown)).max_running == 10
    for num in [asked[answer] for answer in running]:
        await stubs[num % 2].DeleteTrajectory(router_pb2.DeleteTrajectoryRequest(session_id=f"s{num}"))
    await asyncio.wait(running)
    assert (await use(routers[0], shown)).max_running == 0


async def test_an_answer_that_was_read_to_its_end_has_freed_its_slot(stack: Stack) -> None:
    shown = await key(stack, max_running=1)
    stubs = [(await routing(stack, shown))[1] for _ in range(2)]
    for num in range(20):
        assert (await take(stubs[num % 2], short())).error is None


async def test_to_read_another_routers_answer_takes_nothing(stack: Stack) -> None:
    endless(stack, delay_s=0)
    go_on = at_once(stack, 20)
    shown = await key(stack, max_running=1)
    stubs = [(await routing(stack, shown, lease_s=0.6))[1] for _ in range(2)]
    reading = await Reading(stubs[0], short(session_id="s", max_new_tokens=40)).has(5)
    follower = await Reading(stubs[1], router_pb2.GenerateRequest(session_id="s", resume_from=0)).has(5)
    exceeded(await take(stubs[1], short()))
    go_on.set()
    assert (await follower).tokens == (await reading).tokens


async def test_readers_do_not_wait_for_the_quotas_redis(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = await key(stack, max_running=1)
    router, stub = await routing(stack, shown)
    goes_on, settle = asyncio.Event(), router.quotas._settle

    async def late(**call: Any) -> Any:
        await goes_on.wait()
        return await settle(**call)

    monkeypatch.setattr(router.quotas, "_settle", late)
    async with asyncio.timeout(10):
        assert (await take(stub, short())).error is None
    exceeded(await take(stub, short()))
    goes_on.set()
    await until(lambda: passes(stub))


async def test_a_killed_client_frees_its_slot(stack: Stack) -> None:
    endless(stack, 0.01)
    _, stub = await routing(stack, await key(stack, max_running=1), detach_grace_s=0.1)
    left = await take(stub, long(), num_tokens=5)
    assert left.error is None
    exceeded(await take(stub, short()))
    await until(lambda: passes(stub))


async def passes(stub: Any) -> bool:
    answer = await take(stub, short())
    if answer.error is not None:
        exceeded(answer)
    return answer.error is None


async def test_a_killed_router_frees_its_slots_within_the_lease(stack: Stack) -> None:
    shown = await key(stack, max_running=2)
    endless(stack, 0.02)
    _, stub = await routing(stack, shown)
    async with router_process(stack, shown) as (process, dying):
        readings = [await Reading(dying, long()).has(5) for _ in range(2)]
        assert exceeded(await take(stub, short())).metadata["quota"] == "max_running"
        process.kill()
        for reading in readings:
            await reading
    # Whoever goes on with one of its answers takes over the slot of that one, not one more.
    stack.slm.delay_s = stack.llm.delay_s = 0
    gone_on = asyncio.create_task(take(stub, resume(await readings[0])))
    await until(lambda: passes(stub))
    assert (await gone_on).error is None


@asynccontextmanager
async def router_process(stack: Stack, shown: Shown) -> AsyncIterator[tuple[asyncio.subprocess.Process, Keyed]]:
    """A router in a process of its own, and who shows it a key."""
    args = ["--slm", stack.slm.address, "--llm", stack.llm.address, "--redis", stack.redis_url]
    args += ["--listen", "127.0.0.1:0", "--lease-s", "0.6", "--keys", "redis"]
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "router_svc", *args, stderr=PIPE)
    assert process.stderr is not None
    try:
        line: dict[str, Any] = {}
        while line.get("event") != "ready":
            line = json.loads(await process.stderr.readline())
        async with grpc.aio.insecure_channel(str(line["address"]), options=client_options()) as channel:
            yield process, Keyed(router_pb2_grpc.RouterServiceStub(channel), shown)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


class Clock:
    """The time of all routers, which stands still."""

    def __init__(self, *routers: Router) -> None:
        self.ms = time.time_ns() // 1_000_000
        for router in routers:
            router.quotas.now_ms = lambda: self.ms

    async def check(self, stub: Any, refused: RstitchError, request: router_pb2.GenerateRequest) -> None:
        """When a refusal says that a request will pass one does, and none a millisecond before."""
        assert refused.retry_after_s is not None
        self.ms += round(refused.retry_after_s * 1000) - 1
        again = exceeded(await take(stub, request))
        assert again.metadata["quota"] == refused.metadata["quota"]
        assert again.retry_after_s == 0.001
        self.ms += 1
        assert (await take(stub, request)).error is None


async def test_a_refused_request_is_told_when_it_passes(stack: Stack) -> None:
    router, stub = await routing(stack, await key(stack, requests_per_minute=3))
    clock = Clock(router)
    for _ in range(3):
        assert (await take(stub, short())).error is None
        clock.ms += 7_001
    refused = exceeded(await take(stub, short()))
    assert refused.retry_after_s == 60 - 3 * 7.001
    await clock.check(stub, refused, short())
    refused = exceeded(await take(stub, short()))
    assert refused.retry_after_s == 7.001, "when the second has gone"


@pytest.mark.parametrize("quota", ["tokens_per_minute", "llm_tokens_per_minute"])
async def test_whoever_had_its_tokens_is_told_when_it_may_have_more(stack: Stack, quota: str) -> None:
    """A token counts for 60 s, and for one more at most."""
    endless(stack, 0)
    router, stub = await routing(stack, await key(stack, **{quota: 61}))
    clock = Clock(router)
    request = ask_for(policy=router_pb2.Policy(llm_only={}), max_new_tokens=27)
    for _ in range(3):  # the third may begin: there is room for a token
        assert (await take(stub, request)).error is None
        clock.ms += 5_000
    refused = exceeded(await take(stub, request))
    assert refused.metadata["quota"] == quota
    assert int(refused.metadata["used"]) == 3 * (27 if quota.startswith("llm") else 30)
    assert refused.retry_after_s is not None
    assert 60 <= refused.retry_after_s + 3 * 5 <= 61, "when the first's have gone"
    await clock.check(stub, refused, request)


async def test_whoever_waits_for_a_slot_is_told_when_it_comes_back_by_itself(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = await key(stack, max_running=1)
    endless(stack, 0.02)
    (dying, its), (router, stub) = await routing(stack, shown, lease_s=0.6), await routing(stack, shown)
    clock = Clock(dying, router)
    await Reading(its, long()).has(5)
    for _ in range(3):  # as long as its router lives, it is held
        clock.ms += 599

        async def is_renewed() -> bool:
            return exceeded(await take(stub, short())).retry_after_s == 0.6

        await until(is_renewed)
    monkeypatch.setattr(dying.quotas, "renew", lambda: asyncio.sleep(0))
    refused = exceeded(await take(stub, short()))
    await clock.check(stub, refused, short())


async def test_of_trajectories_as_many_are_kept_as_allowed(stack: Stack) -> None:
    router, stub = await routing(stack, await key(stack, max_trajectories=3), ttl_s=500)
    answers = await asyncio.gather(*(take(stub, short()) for _ in range(20)))
    kept = [answer for answer in answers if answer.error is None]
    assert len(kept) == 3
    assert {exceeded(a).metadata["quota"] for a in answers if a.error} == {"max_trajectories"}
    assert (await take(stub, short(session_id=kept[0].session_id))).error is None, "it is no new one"
    await stub.DeleteTrajectory(router_pb2.DeleteTrajectoryRequest(session_id=kept[0].session_id))
    assert (await take(stub, short())).error is None
    refused, clock = exceeded(await take(stub, short())), Clock(router)
    assert refused.retry_after_s is not None
    assert 400 < refused.retry_after_s <= 500
    # By the routers' clocks: when a trajectory is forgotten is told by when it last grew.
    refused = exceeded(await take(stub, short()))
    await clock.check(stub, refused, short())


async def test_the_longest_wait_is_told(stack: Stack) -> None:
    router, stub = await routing(stack, await key(stack, requests_per_minute=1, llm_tokens_per_minute=5))
    clock = Clock(router)
    endless(stack, 0)
    assert (await take(stub, ask_for(policy=router_pb2.Policy(llm_only={}), max_new_tokens=9))).error is None
    refused = exceeded(await take(stub, short()))
    assert refused.metadata == {
        **{"quota": "llm_tokens_per_minute", "limit": "5", "used": "9", "remaining": "0"},
    }
    await clock.check(stub, refused, short())


async def test_what_is_charged_is_the_usage(stack: Stack) -> None:
    shown = await key(stack, llm_tokens_per_minute=10**9, max_running=100)
    routers, stubs = zip(*[await routing(stack, shown) for _ in range(2)], strict=True)
    answers = await asyncio.gather(*(take(stubs[n % 2], short(prompt=(n, 8), max_new_tokens=50)) for n in range(1, 21)))
    # A second turn: of its prompt only what is new.
    answers.append(await take(stubs[0], short(prompt=(9,), session_id=answers[0].session_id)))
    usages = [answer.finished.usage for answer in answers]
    num_llm = sum(usage.num_llm_tokens for usage in usages)
    num_written = sum(usage.num_slm_tokens for usage in usages) + num_llm
    assert num_llm > 20
    expect = Use(0, 20 * 2 + 1 + num_written, num_llm, 0, 20)
    assert await use(routers[0], shown) == await use(routers[1], shown) == expect


async def test_the_command_says_what_keys_take(stack: Stack) -> None:
    shown, other = await key(stack, requests_per_minute=7, max_running=3), await key(stack)
    _, stub = await routing(stack, shown)
    assert (await take(stub, short())).error is None
    where = ["--redis", stack.redis_url]
    done = await asyncio.to_thread(CliRunner().invoke, app, ["usage", "--json", *where])
    (told,) = map(json.loads, done.stdout.splitlines())
    assert (told["id"], told["used"]["requests_per_minute"], told["limits"]["max_running"]) == (shown.key.id, 1, 3)
    done = await asyncio.to_thread(CliRunner().invoke, app, ["usage", shown.key.id, *where])
    assert "1/7" in done.stdout
    assert "0/3" in done.stdout
    assert other.key.id not in done.stdout
    done = await asyncio.to_thread(CliRunner().invoke, app, ["usage", "0123456789abcdef", *where])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "rstitch keys ls" in done.stderr


async def test_an_answer_is_charged_while_it_is_written_and_goes_on(stack: Stack) -> None:
    endless(stack, 0.02)
    _, stub = await routing(stack, await key(stack, llm_tokens_per_minute=20), lease_s=0.6)
    reading = Reading(stub, ask_for(policy=threshold(0.5), max_new_tokens=200))

    async def is_refused() -> bool:
        return (await take(stub, short())).error is not None

    await until(is_refused)
    exceeded(await take(stub, short()))
    assert not reading.is_over
    stack.slm.delay_s = stack.llm.delay_s = 0
    answer = await reading
    assert answer.error is None
    assert (answer.tokens, answer.authors) == expected(stack, 200)


async def test_a_question_that_is_refused_gives_back_what_it_had(stack: Stack) -> None:
    shown = await key(stack, max_running=1, max_trajectories=1, requests_per_minute=100)
    router, stub = await routing(stack, shown)
    for _ in range(5):
        refused = await take(stub, ask_for(prompt=[1] * 5000))
        assert refused.error is not None
        assert refused.error.reason == "CONTEXT_FULL"
    now = await use(router, shown)
    assert (now.max_running, now.max_trajectories) == (0, 0)
    assert now.requests_per_minute == 5, "what was refused for what it is took its work"
    assert (await take(stub, short())).error is None


async def test_a_question_in_a_running_session_counts_where_only_looking_shows_that(stack: Stack) -> None:
    shown = await key(stack, requests_per_minute=100)
    endless(stack, 0.01)
    (writing, its), (_, other) = await routing(stack, shown), await routing(stack, shown)
    reading = await Reading(its, long()).has(5)
    for stub, num in ((its, 1), (other, 2)):
        refused = await take(stub, short(session_id=reading.answer.session_id))
        assert refused.error is not None
        assert refused.error.reason == "SESSION_RUNNING"
        assert (await use(writing, shown)).requests_per_minute == num
    await its.DeleteTrajectory(router_pb2.DeleteTrajectoryRequest(session_id=reading.answer.session_id))
    await reading


async def test_a_question_that_comes_again_takes_nothing(stack: Stack) -> None:
    shown = await key(stack, requests_per_minute=100, max_running=1)
    (router, stub), (_, other) = await routing(stack, shown), await routing(stack, shown)
    asked = short(session_id="once", only_if_new=True)
    assert (await take(stub, asked)).error is None
    await until(lambda: router.sessions.num_running == 0)
    for each in (stub, other):
        again = await take(each, asked)
        assert again.error is not None
        assert again.error.reason == "SESSION_EXISTS"
    now = await use(router, shown)
    assert (now.requests_per_minute, now.max_running) == (1, 0)


async def test_a_question_that_comes_again_by_its_id_is_charged_once(stack: Stack) -> None:
    """However often, wherever and whenever it comes: a key with room for one has room for all of them."""
    shown = await key(stack, requests_per_minute=1, max_running=1)
    (router, stub), (elsewhere, other) = await routing(stack, shown), await routing(stack, shown)
    endless(stack, delay_s=0)
    go_on = at_once(stack, 12)
    asked = ask_for(policy=threshold(0.5), max_new_tokens=30, session_id="once", request_id="one")
    first = await Reading(stub, asked).has(5)
    again = await Reading(stub, asked).has(5)
    follower = Reading(other, asked)
    go_on.set()
    told = [await reading for reading in (first, again, follower)]
    told += [await take(each, asked) for each in (stub, other)]
    assert [(each.error, each.tokens) for each in told] == [(None, told[0].tokens)] * 5
    await until(lambda: router.sessions.num_running == elsewhere.sessions.num_running == 0)
    now = await use(router, shown)
    assert (now.requests_per_minute, now.max_running) == (1, 0)
    assert now.tokens_per_minute == 30 + 3


async def test_of_twins_the_one_that_does_not_begin_is_not_charged(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = await key(stack, requests_per_minute=100, max_running=2)
    (router, stub), (_, other) = await routing(stack, shown), await routing(stack, shown)
    asked, inner = short(session_id="once", request_id="one"), router.store.claim

    async def claim(*arguments: Any) -> Any:
        assert (await take(other, asked)).error is None
        return await inner(*arguments)

    monkeypatch.setattr(router.store, "claim", claim)
    assert (await take(stub, asked)).error is None
    now = await use(router, shown)
    assert (now.requests_per_minute, now.max_running) == (1, 0)


async def test_a_question_that_the_router_could_not_take_does_not_count(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = await key(stack, max_running=1, requests_per_minute=1)
    router, stub = await routing(stack, shown)

    async def away(*args: Any) -> None:
        raise RstitchError(grpc.StatusCode.UNAVAILABLE, "REDIS_UNAVAILABLE", "away")

    with monkeypatch.context() as patch:
        patch.setattr(router.store, "claim", away)
        failed = await take(stub, short())
    assert failed.error is not None
    assert failed.error.reason == "REDIS_UNAVAILABLE"
    assert (await take(stub, short())).error is None
    exceeded(await take(stub, short()))


async def test_to_go_on_needs_a_slot_and_is_no_request(stack: Stack) -> None:
    shown = await key(stack, max_running=1, requests_per_minute=2)
    endless(stack, 0.01)
    router, stub = await routing(stack, shown, detach_grace_s=0)
    first = await take(stub, ask_for(policy=threshold(0.5), max_new_tokens=60), num_tokens=10)
    await until(lambda: router.sessions.num_running == 0)
    reading = await Reading(stub, long()).has(5)
    assert exceeded(await take(stub, resume(first))).metadata["quota"] == "max_running"
    for _ in range(3):  # to join what is being written takes nothing
        attach = router_pb2.GenerateRequest(session_id=reading.answer.session_id, resume_from=0)
        assert (await take(stub, attach, num_tokens=5)).error is None
    await stub.DeleteTrajectory(router_pb2.DeleteTrajectoryRequest(session_id=reading.answer.session_id))
    await reading
    stack.slm.delay_s = stack.llm.delay_s = 0
    rest = await take(stub, resume(first))
    assert rest.error is None
    for _ in range(3):  # nor to read what is finished
        assert (await take(stub, resume(first))).error is None
    now = await use(router, shown)
    assert (now.requests_per_minute, now.max_running) == (2, 0)
    usage = rest.finished.usage
    assert now.llm_tokens_per_minute >= usage.num_llm_tokens > 0
    assert exceeded(await take(stub, short())).metadata["quota"] == "requests_per_minute"


async def test_to_observe_is_a_request_and_an_answer_at_once(stack: Stack) -> None:
    shown = await key(stack, requests_per_minute=2, max_running=1, max_trajectories=1)
    router, stub = await routing(stack, shown)
    answer = await take(stub, short())
    assert answer.error is None
    request = router_pb2.ObserveAnswerRequest(session_id=answer.session_id, tau=-1)
    assert [observed async for observed in stub.ObserveAnswer(request)]
    now = await use(router, shown)
    assert (now.requests_per_minute, now.max_running, now.max_trajectories) == (2, 0, 1)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        assert [observed async for observed in stub.ObserveAnswer(request)]
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_key_without_limits_is_not_counted(stack: Stack) -> None:
    _, stub = await routing(stack, await key(stack))
    assert (await take(stub, short())).error is None
    async with Redis.from_url(stack.redis_url) as client:
        assert await client.keys("rstitch:{quota:*") == []


async def test_lost_connections_to_redis_neither_count_twice_nor_keep_slots(stack: Stack) -> None:
    """Replies of admissions and of charges are lost among them."""
    shown = await key(stack, requests_per_minute=16, llm_tokens_per_minute=10**9, max_running=1000)
    endless(stack, 0.002)
    router, stub = await routing(stack, shown, redis_patience_s=10.0, lease_s=0.6)
    num_killed = 0
    request = ask_for(policy=threshold(0.5), max_new_tokens=40)
    readings = [Reading(stub, request) for _ in range(16)]
    async with Redis.from_url(stack.redis_url) as client:
        while num_killed < 12:
            before = sum(len(reading.answer.tokens) for reading in readings)
            num_killed += await client.client_kill_filter(_type="normal", skipme=True)

            def has_grown(before: int = before) -> bool:
                is_over = all(reading.is_over for reading in readings)
                return is_over or sum(len(reading.answer.tokens) for reading in readings) > before

            await until(has_grown)
            assert not all(reading.is_over for reading in readings)
    answers = [await reading for reading in readings]
    assert [answer.error for answer in answers] == [None] * 16
    await until(lambda: not router.quotas._accounts)
    now, usages = await use(router, shown), [answer.finished.usage for answer in answers]
    assert (now.requests_per_minute, now.max_running) == (16, 0)
    assert now.llm_tokens_per_minute == sum(usage.num_llm_tokens for usage in usages)
    assert now.tokens_per_minute == 16 * (3 + 40)


async def test_what_is_told_again_is_counted_once(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each first reply is lost, with the limits reached by what was admitted."""
    shown = await key(stack, requests_per_minute=2, llm_tokens_per_minute=10**9, max_running=1)
    router, stub = await routing(stack, shown, lease_s=0.6)
    told = {"_admit": 0, "_settle": 0}

    def losing(name: str) -> Callable[..., Awaitable[Any]]:
        script = getattr(router.quotas, name)

        async def run(**call: Any) -> Any:
            reply = await script(**call)
            told[name] += 1
            if told[name] % 2:
                raise ConnectionError("cut")
            return reply

        return run

    for name in told:
        monkeypatch.setattr(router.quotas, name, losing(name))
    answers = [await take(stub, ask_for(policy=threshold(0.5), max_new_tokens=20)) for _ in range(2)]
    assert [answer.error for answer in answers] == [None] * 2
    assert exceeded(await take(stub, short())).metadata["quota"] == "requests_per_minute"
    await until(lambda: not router.quotas._accounts)
    assert min(told.values()) >= 4
    now, usages = await use(router, shown), [answer.finished.usage for answer in answers]
    num_llm = sum(usage.num_llm_tokens for usage in usages)
    assert (now.requests_per_minute, now.max_running, now.llm_tokens_per_minute) == (2, 0, num_llm)


async def test_refusals_are_counted_by_quota(stack: Stack) -> None:
    shown = await key(stack, requests_per_minute=1)
    with MetricsReceiver() as receiver:
        metrics = setup_metrics("router", receiver.endpoint)
        _, stub = await routing(stack, shown, metrics=metrics)
        for _ in range(4):
            await take(stub, short())
        metrics.shutdown()
    points = list(receiver.points(semconv.METRIC_QUOTA_REFUSALS))
    assert points == [({semconv.RSTITCH_QUOTA: "requests_per_minute"}, 3)]
