"""How many profiles a tenant may keep, and that what is kept is not read to say which there are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import grpc
from redis.asyncio import Redis

from rstitch.errors import RstitchError, from_rpc_error
from rstitch.v1 import router_pb2
from tests.security.conftest import AsTenant
from tests.support.asking import ask_for, take, threshold
from tests.support.toy_stack import Stack


async def put(stub: Any, name: str) -> RstitchError | None:
    """Puts a profile; returns the refusal if it is one too many."""
    profile = router_pb2.Profile(name=name, policy=threshold(0.3))
    return await refusal(stub.PutProfile(router_pb2.PutProfileRequest(profile=profile)))


async def delete(stub: Any, name: str) -> RstitchError | None:
    return await refusal(stub.DeleteProfile(router_pb2.DeleteProfileRequest(name=name)))


async def refusal(call: Awaitable[Any]) -> RstitchError | None:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    return None


async def test_a_tenant_keeps_a_thousand_profiles_and_no_more(
    stack: Stack, redis_url: str, as_tenant: AsTenant
) -> None:
    routers = [await stack.router() for _ in range(2)]
    stubs = [await as_tenant(router, "acme") for router in routers]
    async with Redis.from_url(redis_url) as redis:
        assert await put(stubs[0], "p0") is None
        text = await redis.hget("rstitch:profiles:acme", "p0")
        await redis.hset("rstitch:profiles:acme", mapping={f"p{number}": text for number in range(1, 996)})
        refusals = await asyncio.gather(*(put(stubs[number % 2], f"more{number}") for number in range(12)))
        assert refusals.count(None) == 4
        assert await redis.hlen("rstitch:profiles:acme") == 1000
    for error in filter(None, refusals):
        assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TOO_MANY_PROFILES")
        assert (error.field, "rstitch profiles rm" in (error.remedy or "")) == ("profile.name", True)
    assert len((await stubs[0].ListProfiles(router_pb2.ListProfilesRequest())).profiles) == 1000
    assert await put(stubs[0], "p7") is None, "one in place of another is none more"
    assert await put(await as_tenant(routers[0], "umbrella"), "p") is None
    assert await put(await as_tenant(routers[0], ""), "p") is None
    assert await delete(stubs[0], "p7") is None
    assert await put(stubs[1], "last") is None


async def test_names_are_told_without_reading_what_is_kept(stack: Stack, redis_url: str, as_tenant: AsTenant) -> None:
    stub = await as_tenant(await stack.router(), "acme")
    async with Redis.from_url(redis_url) as redis:
        await redis.hset("rstitch:profiles", "all", "no profile")
        await redis.hset("rstitch:profiles:acme", mapping={"all": "nor this", "own": "nor that"})
    answer = await take(stub, ask_for(policy=router_pb2.Policy(profile="gone")))
    assert answer.error is not None
    assert (answer.error.reason, answer.error.remedy) == ("UNKNOWN_PROFILE", "There are all, own.")
    error = await delete(stub, "gone")
    assert error is not None
    assert (error.reason, error.remedy) == ("UNKNOWN_PROFILE", "There are all, own.")
