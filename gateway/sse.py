"""Server-sent events: frames, comments where nothing came for long, and headers that keep proxies from holding them.

It does not know what is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

HEADERS = {"cache-control": "no-cache, no-transform", "x-accel-buffering": "no"}
MEDIA_TYPE = "text/event-stream"
DONE = b"data: [DONE]\n\n"
_KEEPALIVE = b": keepalive\n\n"


def frame(json: bytes) -> bytes:
    """Frames one JSON text, which has no line ends."""
    return b"data: " + json + b"\n\n"


async def kept_alive(frames: AsyncGenerator[bytes], silence_s: float) -> AsyncIterator[bytes]:
    """Passes frames on, what has come meanwhile in one piece, and a comment after each `silence_s` without any.

    Proxies end what is silent. The frames are read by a task of its own, which ends with whoever reads here.
    """
    arrived: asyncio.Queue[bytes | None] = asyncio.Queue()
    reading = asyncio.create_task(_read(frames, arrived))
    try:
        while True:
            try:
                pieces = [arrived.get_nowait() if not arrived.empty() else await _next(arrived, silence_s)]
            except TimeoutError:
                yield _KEEPALIVE
                continue
            while not arrived.empty():
                pieces.append(arrived.get_nowait())
            if made := b"".join(piece for piece in pieces if piece is not None):
                yield made
            if pieces[-1] is None:
                await reading  # raises what it has met
                return
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def _next(arrived: asyncio.Queue[bytes | None], silence_s: float) -> bytes | None:
    async with asyncio.timeout(silence_s):
        return await arrived.get()


async def _read(frames: AsyncGenerator[bytes], arrived: asyncio.Queue[bytes | None]) -> None:
    try:
        async with contextlib.aclosing(frames):
            async for made in frames:
                arrived.put_nowait(made)
    finally:
        arrived.put_nowait(None)
