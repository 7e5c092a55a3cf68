"""Long silences: a client that pings as its library does is not cut off, and one that floods is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from rstitch.channels import ChannelOptions, client_options, server_options
from rstitch.v1 import router_pb2, router_pb2_grpc
from tests.support.asking import Reading, ask_for, threshold, until
from tests.support.endless import endless, expected
from tests.support.pings import PingCounter, counting_pings
from tests.support.toy_stack import Stack

# As grpc-go's keepalive.ClientParameters{Time: 11 s} does.
ELEVEN_S: ChannelOptions = [
    ("grpc.keepalive_time_ms", 11_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]


class Silent(router_pb2_grpc.RouterServiceServicer):
    """Says nothing between its first message and its last."""

    def __init__(self) -> None:
        self.goes_on = asyncio.Event()

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[router_pb2.GenerateResponse]:
        yield router_pb2.GenerateResponse(started=router_pb2.Started(session_id="s"))
        await self.goes_on.wait()
        yield router_pb2.GenerateResponse(finished=router_pb2.Finished(length=1))


@asynccontextmanager
async def silence(options: ChannelOptions) -> AsyncIterator[tuple[Silent, PingCounter]]:
    servicer, server = Silent(), grpc.aio.server(options=options)
    router_pb2_grpc.add_RouterServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with counting_pings(f"127.0.0.1:{port}") as counter:
            yield servicer, counter
    finally:
        await server.stop(0)


@asynccontextmanager
async def stub_of(address: str, options: ChannelOptions) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield router_pb2_grpc.RouterServiceStub(channel)


async def test_our_clients_ping_through_a_silence_and_are_not_cut_off() -> None:
    """Of a hundredth of the real length, with a hundredth of the time between two pings on either side."""
    async with (
        silence(server_options(min_ping_s=0.05)) as (servicer, counter),
        stub_of(counter.address, client_options(ping_s=0.2)) as stub,
    ):
        call = stub.Generate(ask_for())
        assert (await call.read()).HasField("started")
        before = counter.num_pings
        # Two would be the library's own limit, and after three of them the server's default cuts off.
        await until(lambda: counter.num_pings >= before + 7 or call.done())
        servicer.goes_on.set()
        assert (await call.read()).HasField("finished")
        assert await call.read() is grpc.aio.EOF


async def test_who_floods_with_pings_is_cut_off() -> None:
    async with (
        silence(server_options()) as (_, counter),
        stub_of(counter.address, client_options(ping_s=0.05)) as stub,
    ):
        call = stub.Generate(ask_for())
        assert (await call.read()).HasField("started")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.soak
@pytest.mark.parametrize("options", [ELEVEN_S, client_options()], ids=["11 s", "our own"])
async def test_a_real_silence(stack: Stack, options: ChannelOptions) -> None:
    """An answer that waits for its model while four pings go by: for 44 s, or for 80."""
    endless(stack, 0)
    goes_on = asyncio.Event()

    async def pace() -> None:
        await goes_on.wait()

    stack.slm.pace = stack.llm.pace = pace
    router = await stack.router()
    async with counting_pings(f"127.0.0.1:{router.port}") as counter, stub_of(counter.address, options) as stub:
        reading = Reading(stub, ask_for(policy=threshold(0.5), max_new_tokens=20))
        await until(lambda: counter.num_pings >= 5 or reading.is_over, patience_s=110)
        goes_on.set()
        answer = await reading
    assert answer.error is None
    assert answer.tokens == expected(stack, 20)[0]
