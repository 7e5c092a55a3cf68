"""Profiles on the wire: kept, listed, forgotten, and the policy of an answer that names one."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from redis.asyncio import Redis

from rstitch.client.aio import AsyncClient
from rstitch.client.types import Budget, KeptProfile, Threshold
from rstitch.errors import from_rpc_error
from rstitch.v1 import router_pb2
from tests.support.asking import ask_for, take, threshold
from tests.support.toy_stack import Stack


def profile(name: str, policy: router_pb2.Policy | None = None, **fields: Any) -> router_pb2.Profile:
    return router_pb2.Profile(name=name, policy=policy or threshold(0.3), **fields)


async def put(stub: Any, kept: router_pb2.Profile) -> router_pb2.Profile:
    return (await stub.PutProfile(router_pb2.PutProfileRequest(profile=kept))).profile


async def names(stub: Any) -> list[str]:
    return [kept.name for kept in (await stub.ListProfiles(router_pb2.ListProfilesRequest())).profiles]


def named(name: str) -> router_pb2.Policy:
    return router_pb2.Policy(profile=name)


@pytest.fixture
async def stub(stack: Stack) -> Any:
    return await stack.stub(await stack.router())


async def test_a_profile_is_kept_replaced_listed_by_name_and_forgotten(stub: Any) -> None:
    kept = await put(stub, profile("fast", description="LLM share 3% [2%, 4%]"))
    assert kept.description == "LLM share 3% [2%, 4%]"
    assert kept.updated.seconds > 0
    await put(stub, profile("exact", threshold(0.001)))
    await put(stub, profile("fast", threshold(0.5)))
    found = (await stub.ListProfiles(router_pb2.ListProfilesRequest())).profiles
    assert [(each.name, each.policy.threshold.tau) for each in found] == [("exact", 0.001), ("fast", 0.5)]
    await stub.DeleteProfile(router_pb2.DeleteProfileRequest(name="fast"))
    assert await names(stub) == ["exact"]


async def test_an_answer_has_the_policy_that_its_profile_held_when_it_began(stub: Any) -> None:
    await put(stub, profile("mine", threshold(0.3, 0.2)))
    answer = await take(stub, ask_for(policy=named("mine"), max_new_tokens=20))
    assert answer.finished.profile == "mine"
    taus = (0.3, 0.2)
    assert (answer.finished.policy.threshold.tau, answer.finished.policy.threshold.tau_return) == taus
    await put(stub, profile("mine", router_pb2.Policy(llm_only=router_pb2.LlmOnly())))
    reply = await stub.GetTrajectory(router_pb2.GetTrajectoryRequest(session_id=answer.session_id))
    assert reply.trajectory.finished.profile == "mine"
    assert (reply.trajectory.policy.threshold.tau, reply.trajectory.policy.threshold.tau_return) == taus
    plain = await take(stub, ask_for(policy=threshold(0.3, 0.2), max_new_tokens=20))
    assert plain.tokens == answer.tokens
    assert plain.finished.profile == ""
    again = await take(stub, ask_for(policy=named("mine"), max_new_tokens=20))
    assert set(again.authors) == {"llm"}


async def test_what_a_profile_has_beside_a_policy_holds_where_the_request_gives_none(stub: Any) -> None:
    own, other = router_pb2.Budget(llm_tokens=1), router_pb2.Budget(llm_tokens=3)
    await put(stub, profile("cheap", threshold(-1.0, -1.0), budget=own))
    kept = await take(stub, ask_for(policy=named("cheap"), max_new_tokens=20))
    given = await take(stub, ask_for(policy=named("cheap"), max_new_tokens=20, budget=other))
    assert kept.authors.count("llm") == 1
    assert given.authors.count("llm") == 3


async def test_all_routers_on_one_redis_know_a_profile(stack: Stack) -> None:
    first, second = [await stack.stub(await stack.router()) for _ in range(2)]
    await put(first, profile("shared"))
    answer = await take(second, ask_for(policy=named("shared"), max_new_tokens=5))
    assert answer.finished.profile == "shared"


async def test_an_unknown_profile_is_refused_with_those_that_are_known(stub: Any) -> None:
    answer = await take(stub, ask_for(policy=named("fast")))
    assert answer.error is not None
    assert (answer.error.code, answer.error.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_PROFILE")
    assert "There are none" in (answer.error.remedy or "")
    await asyncio.gather(*(put(stub, profile(f"p{number:02}")) for number in range(23)))
    answer = await take(stub, ask_for(policy=named("fast")))
    assert answer.error is not None
    assert answer.error.field == "policy.profile"
    assert answer.error.remedy == f"There are {', '.join(f'p{number:02}' for number in range(20))} and 3 more."
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.DeleteProfile(router_pb2.DeleteProfileRequest(name="fast"))
    assert from_rpc_error(caught.value).reason == "UNKNOWN_PROFILE"


@pytest.mark.parametrize(
    ("kept", "field"),
    [
        (profile(""), "profile.name"),
        (profile("with space"), "profile.name"),
        (profile("x" * 65), "profile.name"),
        (router_pb2.Profile(name="none"), "profile.policy"),
        (profile("loop", named("loop")), "profile.policy"),
        (profile("high", threshold(3.0)), "profile.policy.threshold.tau"),
        (profile("headless", router_pb2.Policy(learned=router_pb2.Learned())), "profile.policy.learned.name"),
        (profile("nothing", budget=router_pb2.Budget()), "profile.budget"),
        (profile("long", description="x" * 2001), "profile.description"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_profile_that_no_answer_could_use_is_refused(stub: Any, kept: router_pb2.Profile, field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await put(stub, kept)
    error = from_rpc_error(caught.value)
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, field)
    assert error.remedy
    assert await names(stub) == []


@pytest.mark.parametrize("name", ["", "a b", "x" * 65])
async def test_a_name_that_can_be_none_is_refused(stub: Any, name: str) -> None:
    answer = await take(stub, ask_for(policy=named(name)))
    assert answer.error is not None
    assert (answer.error.code, answer.error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "policy.profile")


async def test_a_profile_of_a_newer_router_is_used_as_far_as_it_is_known(stub: Any, redis_url: str) -> None:
    text = json_format.MessageToJson(profile("new"), preserving_proto_field_name=True)
    async with Redis.from_url(redis_url) as client:
        await client.hset("rstitch:profiles", "new", text.replace("{", '{"invented": 1,', 1))
    answer = await take(stub, ask_for(policy=named("new"), max_new_tokens=3))
    assert answer.finished.profile == "new"


async def test_the_client_puts_lists_and_forgets_profiles(stack: Stack) -> None:
    router = await stack.router()
    kept = KeptProfile("mine", Threshold(0.3, 0.2), budget=Budget(max_switches=4, stop=True), description="by hand")
    async with AsyncClient(f"127.0.0.1:{router.port}") as client:
        returned = await client.put_profile(kept)
        assert replace(returned, policy=kept.policy, updated=None) == kept
        assert await client.profiles() == [returned]
        await client.delete_profile("mine")
        assert await client.profiles() == []


async def test_status_lists_it_among_the_policies(stub: Any) -> None:
    assert "profile" in (await stub.GetStatus(router_pb2.GetStatusRequest())).policies
