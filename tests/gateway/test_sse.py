"""Frames come as they are made, silence is filled, and who leaves ends what makes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from gateway.sse import kept_alive


async def test_what_comes_together_goes_together_and_silence_is_filled() -> None:
    silent = asyncio.Event()

    async def frames() -> AsyncGenerator[bytes]:
        yield b"a"
        yield b"b"
        await silent.wait()
        yield b"c"

    got = []
    async for piece in kept_alive(frames(), 0.01):
        got.append(piece)
        if piece.startswith(b":"):
            silent.set()
    assert [piece for piece in got if not piece.startswith(b":")] == [b"ab", b"c"]
    assert got.count(b": keepalive\n\n") >= 1


async def test_a_fault_is_raised_behind_what_came_before() -> None:
    async def frames() -> AsyncGenerator[bytes]:
        yield b"a"
        raise ValueError("no more")

    got = []

    async def read() -> None:
        async for piece in kept_alive(frames(), 10):
            got.append(piece)

    with pytest.raises(ValueError, match="no more"):
        await read()
    assert got == [b"a"]


async def test_who_leaves_ends_the_frames() -> None:
    ended = asyncio.Event()

    async def frames() -> AsyncGenerator[bytes]:
        try:
            yield b"a"
            await asyncio.Event().wait()
        finally:
            ended.set()

    kept = kept_alive(frames(), 10)
    assert await anext(kept) == b"a"
    await kept.aclose()  # type: ignore[attr-defined]
    assert ended.is_set()
