"""Whatever a handler raises, the caller gets a status with a reason; bad messages never reach a handler."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from rstitch.errors import RstitchError, from_rpc_error
from tests.service.conftest import KINDS, Wire, soon, start_wire


async def failure(wire: Wire, kind: str, session_id: Any) -> RstitchError:
    async with wire.channel() as channel:
        with pytest.raises(grpc.RpcError) as caught:
            await wire.call(channel, kind, session_id)
    return from_rpc_error(caught.value)


@pytest.mark.parametrize("kind", KINDS)
async def test_replies_pass_through(wire: Wire, kind: str) -> None:
    async with wire.channel() as channel:
        replies = await wire.call(channel, kind, "hello")
    assert {reply.session_id for reply in replies} == {"hello"}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_refusal_carries_reason_field_and_remedy(wire: Wire, kind: str) -> None:
    error = await failure(wire, kind, "refuse")
    assert (error.code, error.reason, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "tau")
    assert (error.message, error.remedy) == ("tau is NaN.", "Give a number.")


@pytest.mark.parametrize("kind", KINDS)
async def test_retry_delay_and_metadata_arrive(wire: Wire, kind: str) -> None:
    error = await failure(wire, kind, "retry")
    assert (error.reason, error.retry_after_s, error.metadata) == ("NO_CAPACITY", 0.25, {"held": "3"})


@pytest.mark.parametrize("kind", KINDS)
async def test_a_bug_is_internal_and_the_server_goes_on(wire: Wire, kind: str) -> None:
    error = await failure(wire, kind, "break")
    assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    async with wire.channel() as channel:
        assert await wire.call(channel, kind, "hello")


@pytest.mark.parametrize("kind", KINDS)
async def test_invalid_utf8_is_refused_with_a_reason(wire: Wire, kind: str) -> None:
    error = await failure(wire, kind, b"\x0a\x02\xff\xfe")
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE")
    assert error.remedy


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_bytes", [2_000, 10_000], ids=["by the interceptor", "by the library"])
async def test_a_message_over_the_limit_is_refused_with_a_reason(kind: str, num_bytes: int) -> None:
    async with start_wire(max_message_bytes=1_000) as wire:
        error = await failure(wire, kind, "x" * num_bytes)
        assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")
        assert error.remedy


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cancelled_call_reaches_the_handlers_cleanup(wire: Wire, kind: str) -> None:
    async with wire.channel() as channel:
        call = asyncio.create_task(wire.call(channel, kind, "wait"))
        await soon(wire.kinds.started.wait())
        call.cancel()
        await soon(wire.kinds.cleaned_up.wait())
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_no_peer_is_a_transport_error() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        with pytest.raises(grpc.RpcError) as caught:
            await channel.unary_unary("/x.Y/Z")(b"")
    error = from_rpc_error(caught.value)
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "TRANSPORT")
