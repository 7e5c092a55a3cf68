"""Health, reflection, a port that is taken, and a drain that loses no call."""

from __future__ import annotations

import asyncio
import os
import signal

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from rstitch.errors import RstitchError
from rstitch.service.server import LIVE, Server
from rstitch.service.telemetry import setup_telemetry
from tests.service.conftest import SERVICE, Wire, soon


async def health(wire: Wire, service: str = "") -> str:
    async with wire.channel() as channel:
        reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)


@pytest.mark.parametrize("service", ["", SERVICE])
async def test_health_follows_set_serving(wire: Wire, service: str) -> None:
    assert await health(wire, service) == "SERVING"
    await wire.server.set_serving(False)
    assert await health(wire, service) == "NOT_SERVING"


async def test_a_server_is_not_serving_until_told() -> None:
    server = Server("127.0.0.1:0", service_names=[], telemetry=setup_telemetry("test", None))
    port = await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert reply.status == health_pb2.HealthCheckResponse.NOT_SERVING
    await server.stop(0)


async def test_a_server_that_takes_no_work_lives(wire: Wire) -> None:
    await wire.server.set_serving(False)
    assert (await health(wire), await health(wire, LIVE)) == ("NOT_SERVING", "SERVING")


async def test_reflection_lists_the_services(wire: Wire) -> None:
    async with wire.channel() as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        names = {s.name for reply in [r async for r in call] for s in reply.list_services_response.service}
    assert names == {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


async def test_a_taken_port_is_refused_by_name(wire: Wire) -> None:
    second = Server(wire.address, service_names=[], telemetry=setup_telemetry("test", None))
    with pytest.raises(RstitchError, match=wire.address) as caught:
        await second.start()
    assert (caught.value.reason, caught.value.field) == ("CANNOT_LISTEN", "listen")
    await second.stop(0)


async def test_a_call_in_flight_ends_well_when_the_server_drains(wire: Wire) -> None:
    drained = asyncio.Event()

    async def on_drain() -> None:
        drained.set()

    serving = asyncio.create_task(wire.server.serve_until_signal(10, on_drain))
    async with wire.channel() as channel:
        call = asyncio.create_task(wire.call(channel, "unary_stream", "wait"))
        await soon(wire.kinds.started.wait())
        os.kill(os.getpid(), signal.SIGTERM)
        await soon(drained.wait())
        assert not call.done()
        wire.kinds.finish.set()
        assert len(await call) == 2
    await soon(serving)


async def test_a_second_signal_waits_for_no_drain(wire: Wire) -> None:
    begun, over = asyncio.Event(), asyncio.Event()

    async def on_drain() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            over.set()

    serving = asyncio.create_task(wire.server.serve_until_signal(60, on_drain))
    await asyncio.sleep(0)  # it handles signals from here on
    os.kill(os.getpid(), signal.SIGTERM)
    await soon(begun.wait())
    assert not serving.done()
    os.kill(os.getpid(), signal.SIGTERM)
    await soon(serving)
    assert over.is_set()


async def test_a_second_signal_cuts_calls_off(wire: Wire) -> None:
    serving = asyncio.create_task(wire.server.serve_until_signal(60))
    async with wire.channel() as channel:
        call = asyncio.create_task(wire.call(channel, "unary_unary", "wait"))
        await soon(wire.kinds.started.wait())
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0.1)
        assert not serving.done()
        os.kill(os.getpid(), signal.SIGINT)
        await soon(serving)
        with pytest.raises(grpc.RpcError):
            await call
