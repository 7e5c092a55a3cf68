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
    """Passes frames on, and a comment after each `silence_s` without one: proxies end what is silent."""
    coming: asyncio.Task[bytes] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(frames))
            done, _ = await asyncio.wait([coming], timeout=silence_s)
            if not done:
                yield _KEEPALIVE
                continue
            try:
                made, coming = coming.result(), None
            except StopAsyncIteration:
                return
            yield made
    finally:
        if coming is not None:
            coming.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
                await coming
        await frames.aclose()
