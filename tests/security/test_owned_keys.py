"""Where what is a tenant's lies: in Redis, on the workers and in logs; and profiles, which some see and few change."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import structlog
from redis.asyncio import Redis

from router_svc.trajectory import keys
from router_svc.trajectory.session_names import facts_of, id_in, salt_of, session_name, tenant_in
from router_svc.trajectory.store import TrajectoryStore
from router_svc.trajectory.types import Source
from router_svc.trajectory.usage import Usage
from rstitch.limits import MAX_SALT_CHARS
from rstitch.v1 import router_pb2 as pb
from tests.security.conftest import AsTenant
from tests.support.asking import Reading, ask_for, chat, refused, take, threshold
from tests.support.endless import endless, expected, glued, resume
from tests.support.toy_stack import Stack
from tests.support.trajectories import begun, chunk

TENANTS = ("", "acme", "umbrella")


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Any]:
    async with Redis.from_url(redis_url) as client:
        yield client


def test_a_name_says_whose_it_is_and_without_a_tenant_it_is_the_id() -> None:
    assert session_name("", "s") == "s"
    for tenant in TENANTS:
        name = session_name(tenant, "a.b_c-d")
        assert (tenant_in(name), id_in(name)) == (tenant, "a.b_c-d")
    assert facts_of("s") == {"session_id": "s"}
    assert facts_of(session_name("acme", "s")) == {"session_id": "s", "tenant": "acme"}


def test_no_two_tenants_have_a_salt_in_common() -> None:
    asked = [(tenant, salt) for tenant in ("acme", "acm", "a", "1") for salt in ("", "e", "me", "4:acme", "x" * 128)]
    salts = {salt_of(*each) for each in asked}
    assert len(salts) == len(asked)
    assert all(len(salt) <= MAX_SALT_CHARS for salt in salts)
    assert salt_of("", "mine") == "mine"
    assert not any(salt_of("", salt) in salts for _, salt in asked)


async def test_a_tenants_keys_have_its_name_and_those_of_a_session_lie_in_one_slot(
    stack: Stack, as_tenant: AsTenant, redis: Any
) -> None:
    router = await stack.router()
    found = {}
    for tenant in TENANTS:
        await redis.flushall()
        stub = await as_tenant(router, tenant)
        await take(stub, ask_for(session_id="s", max_new_tokens=3))
        await stub.LabelTrajectory(pb.LabelTrajectoryRequest(session_id="s", label=pb.LABEL_RIGHT))
        await stub.PutProfile(pb.PutProfileRequest(profile=pb.Profile(name="p", policy=threshold(0.1))))
        found[tenant] = {key.decode() for key in await redis.keys()} - {keys.router(router.lease.router_id)}
        its = keys.of_session(session_name(tenant, "s"))
        for index in (its.listing, its.labelled):
            assert await redis.zrange(index, 0, -1) == [b"s"]
        # Nothing is left of what is forgotten.
        await stub.DeleteTrajectory(pb.DeleteTrajectoryRequest(session_id="s"))
        await stub.DeleteProfile(pb.DeleteProfileRequest(name="p"))
        assert {key.decode() for key in await redis.keys()} <= {keys.router(router.lease.router_id)}
    assert found[""] == {
        "rstitch:{:51}:trajectory:s",
        "rstitch:{:51}:chunks:s",
        "rstitch:{:51}:trajectories",
        "rstitch:{:51}:labelled",
        "rstitch:profiles",
    }
    assert found["acme"] == {
        "rstitch:{acme:51}:trajectory:s",
        "rstitch:{acme:51}:chunks:s",
        "rstitch:{acme:51}:trajectories",
        "rstitch:{acme:51}:labelled",
        "rstitch:profiles:acme",
    }


async def test_appends_of_several_tenants_share_a_call_and_no_index(store: TrajectoryStore, redis: Any) -> None:
    names = [session_name(tenant, session_id) for tenant in TENANTS for session_id in ("s", "t")]
    owned = {name: await begun(store, session=name) for name in names}
    for tenant in TENANTS:
        await redis.delete(*keys.indexes(tenant))
    await redis.config_resetstat()
    await asyncio.gather(
        *(
            store.append(name, owned[name], 3, [chunk(Source.SLM, 3, index)], Usage())
            for index, name in enumerate(names)
        )
    )
    commands = await redis.info("commandstats")
    assert commands.get("cmdstat_eval", commands.get("cmdstat_evalsha"))["calls"] == 1
    for tenant in TENANTS:
        found = [await redis.zrange(index, 0, -1) for index in keys.indexes(tenant)]
        assert sorted(name for names in found for name in names) == [b"s", b"t"]
    for index, name in enumerate(names):
        trajectory = await store.trajectory(name)
        assert trajectory is not None
        assert trajectory.header.session_id == id_in(name)
        assert list(trajectory.chunks[-1].tokens) == [index]
        assert (await store.page(10, None, tenant=tenant_in(name)))[0] != []


async def test_a_claim_tidies_the_indexes_of_its_tenant(store: TrajectoryStore, redis: Any) -> None:
    for tenant in TENANTS:
        its = keys.of_session(session_name(tenant, "new"))
        for key in (its.listing, its.labelled):
            await redis.zadd(key, {"ended-long-ago": 1})
    await begun(store, session=session_name("acme", "new"))
    its = keys.of_session(session_name("acme", "new"))
    assert await redis.zrange(its.listing, 0, -1) == [b"new"]
    assert await redis.exists(its.labelled) == 0
    for tenant in ("", "umbrella"):
        its = keys.of_session(session_name(tenant, "new"))
        assert await redis.zrange(its.listing, 0, -1) == [b"ended-long-ago"]


async def test_workers_hear_of_a_tenants_sessions_and_salts_and_of_no_other_ones(
    stack: Stack, as_tenant: AsTenant
) -> None:
    endless(stack, delay_s=0)
    router, asked = (
        await stack.router(lease_s=30),
        [("", ""), ("", "x"), ("acme", ""), ("acme", "x"), ("umbrella", "x")],
    )
    salts: dict[tuple[str, str], str] = {}
    for tenant, salt in asked:
        stack.slm.requests, stack.llm.requests = [], []
        question = ask_for(session_id="s", policy=threshold(0.5), max_new_tokens=20, cache_salt=salt)
        stub = await as_tenant(router, tenant)
        await take(stub, question)
        runs = stack.slm.requests + stack.llm.requests
        assert {run.session_id for run in runs} == {session_name(tenant, "s")}
        (salts[tenant, salt],) = {run.cache_salt for run in runs}
        await stub.DeleteTrajectory(pb.DeleteTrajectoryRequest(session_id="s"))
        assert stack.slm.closed[-1] == stack.llm.closed[-1] == session_name(tenant, "s")
    assert (salts["", ""], salts["", "x"]) == ("", "x")
    assert len(set(salts.values())) == len(asked)

    # Whoever goes on with an answer, and whoever observes one, does so under the tenant's salt.
    second = await stack.router()
    stack.slm.delay_s = stack.llm.delay_s = 0.002
    question = ask_for(session_id="s", policy=threshold(0.5), max_new_tokens=150, cache_salt="x")
    reading = await Reading(await as_tenant(router, "acme"), question).has(20)
    await router.sessions.drain()
    answer, stub = await reading, await as_tenant(second, "acme")
    stack.slm.requests, stack.llm.requests = [], []
    assert glued(answer, await take(stub, resume(answer))).tokens == expected(stack, 150)[0]
    assert {run.cache_salt for run in stack.slm.requests + stack.llm.requests} == {salts["acme", "x"]}
    given = pb.GivenAnswer(chat=chat(("user", "who?")), text="the fox")
    for request, salt in (({"session_id": "s"}, "x"), ({"given": given}, "")):
        async for _ in stub.ObserveAnswer(pb.ObserveAnswerRequest(tau=0.5, **request)):
            pass
        assert stack.slm.observed[-1].cache_salt == salts["acme", salt]


async def test_a_coin_falls_for_a_tenant_as_for_those_without(stack: Stack, as_tenant: AsTenant) -> None:
    router = await stack.router()
    question = ask_for(session_id="s", policy=pb.Policy(random=pb.Random(slm_probability=0.5)), max_new_tokens=30)
    answers = [await take(await as_tenant(router, tenant), question) for tenant in TENANTS]
    assert {answer.finished.policy.random.seed for answer in answers} == {zlib.crc32(b"s")}
    assert answers[0].tokens == answers[1].tokens == answers[2].tokens


async def test_logs_say_the_clients_id_and_whose_it_is(stack: Stack, as_tenant: AsTenant) -> None:
    router = await stack.router()
    with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as logs:
        for tenant in TENANTS:
            await take(await as_tenant(router, tenant), ask_for(session_id="s", max_new_tokens=3))
    finished = [line for line in logs if line["event"] == "answer finished"]
    assert [(line["session_id"], line.get("tenant")) for line in finished] == [
        ("s", None),
        ("s", "acme"),
        ("s", "umbrella"),
    ]


async def put(stub: Any, name: str, tau: float) -> None:
    await stub.PutProfile(pb.PutProfileRequest(profile=pb.Profile(name=name, policy=threshold(tau))))


async def profiles(stub: Any) -> dict[str, float]:
    reply = await stub.ListProfiles(pb.ListProfilesRequest())
    return {each.name: each.policy.threshold.tau for each in reply.profiles}


async def test_a_tenant_sees_its_own_profiles_before_the_operators_and_changes_no_others(
    stack: Stack, as_tenant: AsTenant
) -> None:
    router = await stack.router()
    operator, acme, umbrella = [await as_tenant(router, tenant) for tenant in TENANTS]
    await put(operator, "fast", 0.5)
    await put(operator, "safe", 0.125)
    await put(acme, "fast", 0.25)
    await put(acme, "secret", 0.75)
    assert await profiles(operator) == {"fast": 0.5, "safe": 0.125}
    assert await profiles(acme) == {"fast": 0.25, "safe": 0.125, "secret": 0.75}
    assert await profiles(umbrella) == {"fast": 0.5, "safe": 0.125}

    async def used(stub: Any, name: str) -> float:
        answer = await take(stub, ask_for(policy=pb.Policy(profile=name), max_new_tokens=2))
        return float(answer.finished.policy.threshold.tau)

    assert [await used(stub, "fast") for stub in (operator, acme, umbrella)] == [0.5, 0.25, 0.5]
    assert await used(umbrella, "safe") == 0.125

    # Another tenant's is as one that nobody has: asked for, and to be forgotten.
    for name in ("secret", "nobody"):
        error = await refused(umbrella.Generate(ask_for(policy=pb.Policy(profile=name))))
        assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_PROFILE")
        assert (error.message, error.remedy) == (f"there is no profile {name}.", "There are fast, safe.")
    for name in ("secret", "nobody", "fast", "safe"):
        error = await refused(umbrella.DeleteProfile(pb.DeleteProfileRequest(name=name)))
        assert error.reason == "UNKNOWN_PROFILE"
        assert error.message == f"there is no profile {name} of this tenant's own."
        assert error.remedy is not None
        assert "none" in error.remedy
    assert await profiles(acme) == {"fast": 0.25, "safe": 0.125, "secret": 0.75}
    await acme.DeleteProfile(pb.DeleteProfileRequest(name="fast"))
    assert await profiles(acme) == {"fast": 0.5, "safe": 0.125, "secret": 0.75}
    assert await used(acme, "fast") == 0.5
    await operator.DeleteProfile(pb.DeleteProfileRequest(name="fast"))
    assert (await refused(operator.DeleteProfile(pb.DeleteProfileRequest(name="fast")))).message == (
        "there is no profile fast."
    )
