"""What is written in one turn of the loop arrives whole and in order, and before whatever ends the connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.corked import Corked
from tests.support.asking import until

Talk = Callable[[Corked], Awaitable[None]]


class Counted(asyncio.Protocol):
    """Corks its connection, counts what goes out, and talks once it is made."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self.sizes: list[int] = []
        self.is_paused = False
        self.talked: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        write = transport.write

        def counted(data: Any) -> None:
            self.sizes.append(len(data))
            write(data)

        transport.write = counted  # type: ignore[method-assign]
        self.talked = asyncio.ensure_future(self._talked(Corked(transport)))

    async def _talked(self, transport: Corked) -> None:
        await self._talk(transport)

    def pause_writing(self) -> None:
        self.is_paused = True


async def told(talk: Talk) -> tuple[bytes, Counted]:
    """What the other end of a real connection reads of it."""
    made = Counted(talk)
    server = await asyncio.get_running_loop().create_server(lambda: made, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            async with asyncio.timeout(30):
                data = await reader.read()
            assert made.talked is not None
            await made.talked
        finally:
            writer.close()
    return data, made


async def test_a_turn_is_one_piece() -> None:
    async def talk(transport: Corked) -> None:
        transport.write(b"a")
        transport.write(b"")
        transport.write(b"bc")
        assert transport.get_write_buffer_size() == 3
        await asyncio.sleep(0)
        transport.write(b"d")
        await asyncio.sleep(0)
        transport.close()
        assert transport.is_closing()

    data, made = await told(talk)
    assert (data, made.sizes) == (b"abcd", [3, 1])


@pytest.mark.parametrize("end", [Corked.close, Corked.write_eof])
async def test_what_is_written_comes_before_the_end(end: Callable[[Corked], None]) -> None:
    async def talk(transport: Corked) -> None:
        assert transport.can_write_eof()
        transport.write(b"last ")
        transport.write(b"words")
        end(transport)

    data, _ = await told(talk)
    assert data == b"last words"


async def test_an_abort_drops_it() -> None:
    async def talk(transport: Corked) -> None:
        transport.write(b"lost")
        transport.abort()
        assert transport.get_write_buffer_size() == 0

    try:
        data, made = await told(talk)
    except ConnectionResetError:
        return
    assert (data, made.sizes) == (b"", [])


async def test_who_writes_more_than_is_read_hears_of_it_within_the_turn() -> None:
    made: list[Counted] = []

    async def talk(transport: Corked) -> None:
        for _ in range(1000):
            transport.write(bytes(1 << 14))
            if made[0].is_paused:
                break
        else:
            pytest.fail("nobody was told to pause")
        transport.abort()

    made.append(Counted(talk))
    server = await asyncio.get_running_loop().create_server(lambda: made[0], "127.0.0.1", 0)
    async with server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await until(lambda: made[0].talked is not None)
        assert made[0].talked is not None
        await made[0].talked
        writer.close()
