"""Server-sent events: frames, and the answer that sends them as they are made until they end or nobody reads them.

It does not know what is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from gateway.leaving import Left, WhileHere

_HEADERS = {"cache-control": "no-cache, no-transform", "x-accel-buffering": "no"}  # proxies hold no event back
DONE = b"data: [DONE]\n\n"
_KEEPALIVE = b": keepalive\n\n"


def frame(json: bytes, id_: str = "") -> bytes:
    """Frames one JSON text, which has no line ends; a client may show its id to go on behind it."""
    return (b"id: " + id_.encode() + b"\n" if id_ else b"") + b"data: " + json + b"\n\n"


class EventStream(StreamingResponse):
    """Sends frames as they are made, and a comment after `silence_s` without any: proxies end what is silent.

    Whoever leaves ends the frames. One task does all of it, and one timer, as a token must not cost a task of its own.
    """

    media_type = "text/event-stream"

    def __init__(self, frames: AsyncGenerator[bytes], silence_s: float, headers: Mapping[str, str]) -> None:
        super().__init__(frames, headers={**headers, **_HEADERS})
        self._frames = frames
        self._silence_s = silence_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with contextlib.aclosing(self._frames):
            with contextlib.suppress(Left):
                async with WhileHere(receive):
                    await self._send_all(send)

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        silence = _Silence(send, self._silence_s)
        try:
            async for made in self._frames:
                silence.broken()
                await send({"type": "http.response.body", "body": made, "more_body": True})
        finally:
            await silence.end()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Silence:
    """Fills the silence of a stream. A frame only notes when it came: the timer looks when it is due."""

    def __init__(self, send: Send, most_s: float) -> None:
        self._send = send
        self._most_s = most_s
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._filling: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(most_s, self._look)

    def broken(self) -> None:
        """Notes that something is sent."""
        self._since = self._loop.time()

    async def end(self) -> None:
        """Looks no more; a comment that is being sent goes out first."""
        self._timer.cancel()
        if self._filling is not None:
            await self._filling

    def _look(self) -> None:
        left_s = self._since + self._most_s - self._loop.time()
        if left_s <= 0:
            left_s = self._most_s
            self.broken()
            if self._filling is None or self._filling.done():  # a client that reads slowly is not sent several
                message = {"type": "http.response.body", "body": _KEEPALIVE, "more_body": True}
                self._filling = asyncio.ensure_future(self._send(message))
        self._timer = self._loop.call_later(left_s, self._look)
