"""What comes below the calls: bombs, resets, streams without an end, metadata without one. The router goes on."""

from __future__ import annotations

import asyncio
import struct
import zlib
from pathlib import Path

import grpc
import pytest

from rstitch.channels import MAX_STREAMS
from rstitch.v1 import router_pb2
from tests.support import raw_http2
from tests.support.asking import ask_for, refused, take, until
from tests.support.raw_http2 import DATA, HEADERS, RST_STREAM, SETTINGS, RawHttp2
from tests.support.toy_stack import Stack

GENERATE = "/rstitch.v1.RouterService/Generate"
STATUS = "/rstitch.v1.RouterService/GetStatus"
_MIB = 1 << 20


def rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def message(data: bytes, *, compressed: bool = False) -> bytes:
    return struct.pack(">BI", compressed, len(data)) + data


@pytest.mark.soak
async def test_a_bomb_is_not_inflated(stack: Stack) -> None:
    """256 MiB of zeros in one: the limit is that of what it becomes."""
    router = await stack.router()
    packing = zlib.compressobj(1, wbits=31)
    packed = b"".join(packing.compress(bytes(8 * _MIB)) for _ in range(32)) + packing.flush()
    before = most = rss()
    async with await RawHttp2.connect(router.port) as raw:
        raw.call(1, GENERATE, grpc_encoding="gzip")
        sending = asyncio.create_task(raw.send(1, message(packed, compressed=True)))
        while not (b"grpc-status" in raw.came(1, HEADERS) or raw.came(1, RST_STREAM) or raw.closed):
            most = max(most, rss())
            await asyncio.sleep(0.005)
        sending.cancel()
        assert not raw.came(1, DATA)
    assert most - before < 100 * _MIB
    assert (await take(await stack.stub(router), ask_for())).error is None


async def test_a_small_bomb_is_refused_by_the_limit(stack: Stack) -> None:
    router = await stack.router()
    options, packed = [("grpc.max_send_message_length", -1)], grpc.Compression.Gzip
    async with grpc.aio.insecure_channel(f"127.0.0.1:{router.port}", options=options, compression=packed) as channel:
        for num_bytes in (20 * _MIB, 50 * _MIB):  # refused by us, and by the library
            error = await refused(channel.unary_stream(GENERATE)(b"\x1a" + bytes(num_bytes)))
            assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_connection_has_only_so_many_streams(stack: Stack) -> None:
    router = await stack.router()
    async with await RawHttp2.connect(router.port) as raw:
        told = await until(lambda: raw.came(0, SETTINGS))
        values = dict(struct.iter_unpack(">HI", told[: len(told) // 6 * 6]))
        assert values[3] == MAX_STREAMS  # SETTINGS_MAX_CONCURRENT_STREAMS
        for index in range(800):
            raw.call(1 + 2 * index, GENERATE)  # none ever sends its message
        await raw.writer.drain()
        assert (await take(await stack.stub(router), ask_for())).error is None
    assert (await take(await stack.stub(router), ask_for())).error is None


async def test_resets_without_end(stack: Stack) -> None:
    router = await stack.router()
    stub = await stack.stub(router)
    async with await RawHttp2.connect(router.port) as raw:
        request = message(router_pb2.GetStatusRequest().SerializeToString())
        for index in range(3000):
            stream = 1 + 2 * index
            raw.call(stream, STATUS)
            raw.frame(DATA, raw_http2.END_STREAM, stream, request)
            raw.frame(RST_STREAM, 0, stream, struct.pack(">I", 8))
            if index % 500 == 0:
                assert (await take(stub, ask_for())).error is None
    assert (await take(stub, ask_for())).error is None
    assert router.sessions.num_running == 0


async def test_metadata_has_a_bound(stack: Stack) -> None:
    router = await stack.router()
    async with await RawHttp2.connect(router.port) as raw:
        raw.call(1, STATUS, x="a" * 15_000, y="a" * 15_000, z="a" * 15_000)
        await until(lambda: raw.came(1, HEADERS, RST_STREAM) or raw.closed)
        assert not raw.came(1, DATA)
    assert (await take(await stack.stub(router), ask_for())).error is None


async def test_a_message_of_single_bytes_and_some_that_lie_about_their_length(stack: Stack) -> None:
    router = await stack.router()
    async with await RawHttp2.connect(router.port) as raw:
        raw.call(1, STATUS)
        for byte in message(b""):
            raw.frame(DATA, 0, 1, bytes([byte]))
        raw.frame(DATA, raw_http2.END_STREAM, 1)
        for stream, said in ((3, 2**32 - 1), (5, 100)):
            raw.call(stream, STATUS)
            raw.frame(DATA, raw_http2.END_STREAM, stream, struct.pack(">BI", 0, said) + b"\x00")
        await until(lambda: raw.came(1, DATA))
        assert (await take(await stack.stub(router), ask_for())).error is None
        assert not raw.came(3, DATA)
        assert not raw.came(5, DATA)
