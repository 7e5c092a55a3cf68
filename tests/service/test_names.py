"""A name of several servers: calls go to each of them, also to one that is added, and not to one that has gone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest

from rstitch.channels import name_options, server_options
from rstitch.client import AsyncClient
from rstitch.errors import RstitchError
from rstitch.limits import routers_place
from rstitch.local.processes import free_port
from rstitch.v1 import router_pb2 as pb
from rstitch.v1 import router_pb2_grpc
from tests.support.name_server import NameServer


class Named(router_pb2_grpc.RouterServiceServicer):
    """A router that has nothing to say but who it is."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def GetStatus(self, request: Any, context: Any) -> pb.GetStatusResponse:
        return pb.GetStatusResponse(ready=True, detail=self._name)


@asynccontextmanager
async def serving(host: str, port: int, max_age_s: float = 300.0) -> AsyncIterator[grpc.aio.Server]:
    server = grpc.aio.server(options=server_options(max_age_s=max_age_s))
    router_pb2_grpc.add_RouterServiceServicer_to_server(Named(host), server)
    server.add_insecure_port(f"{host}:{port}")
    await server.start()
    try:
        yield server
    finally:
        await server.stop(None)


async def answering(client: AsyncClient, wanted: set[str]) -> None:
    """Asks until exactly these have answered, each of them, ten times in a row."""
    told: list[str] = []
    while set(told[-10:]) != wanted or len(told) < 10:
        try:
            told.append((await client.status(timeout_s=5)).detail)
        except RstitchError:  # one that has just gone was asked
            told.clear()


@pytest.mark.parametrize("given", ["127.0.0.1:50050", "router:50050", "[::1]:50050"])
def test_an_address_of_one_server_is_asked_as_ever(given: str) -> None:
    assert name_options(given) == []


async def test_calls_go_to_every_server_of_a_name_and_find_one_that_is_added() -> None:
    port = free_port()
    async with AsyncExitStack() as held:
        names = held.enter_context(NameServer(["127.0.0.1", "127.0.0.2"]))
        first = await held.enter_async_context(serving("127.0.0.1", port, max_age_s=0.5))
        await held.enter_async_context(serving("127.0.0.2", port, max_age_s=0.5))
        client = await held.enter_async_context(AsyncClient(names.target("router", port)))
        await answering(client, {"127.0.0.1", "127.0.0.2"})

        await held.enter_async_context(serving("127.0.0.3", port))
        names.addresses = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
        await answering(client, {"127.0.0.1", "127.0.0.2", "127.0.0.3"})

        names.addresses = ["127.0.0.2", "127.0.0.3"]
        await first.stop(None)
        await answering(client, {"127.0.0.2", "127.0.0.3"})


async def test_calls_go_to_every_address_of_a_list_that_answers() -> None:
    ports = [free_port(), free_port()]
    async with AsyncExitStack() as held:
        first, _ = [
            await held.enter_async_context(serving(host, port))
            for host, port in zip(("127.0.0.1", "127.0.0.2"), ports, strict=True)
        ]
        client = await held.enter_async_context(AsyncClient(f"127.0.0.1:{ports[0]},127.0.0.2:{ports[1]}"))
        await answering(client, {"127.0.0.1", "127.0.0.2"})
        await first.stop(None)
        await answering(client, {"127.0.0.2"})
        await held.enter_async_context(serving("127.0.0.1", ports[0]))
        await answering(client, {"127.0.0.1", "127.0.0.2"})


@pytest.mark.parametrize("wrong", ["a:1,b:2", "127.0.0.1:1,localhost:2", "127.0.0.1:1,[::1]:2", "127.0.0.1:1,"])
def test_a_list_is_of_addresses_of_one_kind(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT|dns:///"):
        routers_place(wrong)
    assert routers_place("127.0.0.1:1,10.0.0.2:2") == "127.0.0.1:1,10.0.0.2:2"
