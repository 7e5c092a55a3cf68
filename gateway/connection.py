"""A connection of the gateway's server, on which a request's head comes within a time and a size, or which ends.

uvicorn bounds neither: whoever opened connections and said nothing would hold all that there may be. What stands in a
head, and what follows it, is not known here.
"""

from __future__ import annotations

import asyncio
import functools
from typing import Any, cast

import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from gateway.corked import Corked
from gateway.errors import ApiError

_log = structlog.get_logger(__name__)
_MAX_HEAD = 1 << 16  # and of whatever else of a request is no part of its body, such as trailers
# So many requests may wait on one connection behind the one that is being answered; clients send them again.
_MAX_WAITING = 16
# What a client was still sending is read for so long: a connection that ends over it would lose its answer.
LINGER_S = 5.0


def connections(head_timeout_s: float) -> type[asyncio.Protocol]:
    """Makes what uvicorn makes a connection with, which closes without a whole head after so many seconds."""
    return cast(type[asyncio.Protocol], functools.partial(Connection, head_timeout_s))


class Connection(HttpToolsProtocol):
    """A connection that is either answering, or has until its deadline for the next head.

    The deadline runs from the first moment at which nothing is being answered and something has been sent, on a new
    connection at once; more that is sent does not move it. Where all is answered and nothing was sent, uvicorn's
    keep-alive time runs.
    """

    def __init__(self, head_timeout_s: float, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timeout_s = head_timeout_s
        self._timer: asyncio.TimerHandle | None = None
        self._in_head = True
        self._num_unheard = 0  # bytes since a head was whole or a piece of a body came
        self._is_refused = False
        self._running: RequestResponseCycle | None = None  # the one being answered; `cycle` is the last that came

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Corked(transport))
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_timer()
        super().connection_lost(exc)
        if self._running is not None and self._running is not self.cycle:  # uvicorn tells the last one only
            self._running.disconnected = True
            self._running.message_event.set()

    def data_received(self, data: bytes) -> None:
        # In pieces that end where a head must: what the parser holds of one is not seen.
        while data and not self._is_refused and not self.transport.is_closing():
            left = _MAX_HEAD - self._num_unheard
            piece, data = data[:left], data[left:]
            self._num_unheard += len(piece)
            super().data_received(piece)
            if self._num_unheard >= _MAX_HEAD:
                what = f"The head of the request has more than {_MAX_HEAD} bytes. Send shorter headers."
                self._refuse(ApiError(431, what, code="HEAD_TOO_LARGE"))
        if not self._is_refused and not self._is_answering and not self.transport.is_closing():
            self._expect_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # trailers are read by nobody, and would be kept
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._forget_timer()
        self._in_head, self._num_unheard = False, 0
        if len(self.pipeline) < _MAX_WAITING:
            super().on_headers_complete()
        elif not self._is_refused:
            _log.info("too many requests wait on a connection")
            self._is_refused = True
            self.transport.close()

    def on_body(self, body: bytes) -> None:
        self._num_unheard = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_head, self._num_unheard = True, 0
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.pipeline:  # who is not answered yet is not heard further
            self.flow.pause_reading()

    def send_400_response(self, msg: str) -> None:
        self._refuse(ApiError(400, "This is no request of HTTP/1.1. Send one.", code="NO_HTTP"))

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_head(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self._head_timeout_s, self._came_too_late)

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _came_too_late(self) -> None:
        if self._in_head and self._num_unheard:
            what = f"The head of the request did not come within {self._head_timeout_s:g} s. Send it faster."
            self._refuse(ApiError(408, what, code="SLOW_HEAD"))
        else:
            self.transport.close()

    def _refuse(self, error: ApiError) -> None:
        """Answers what is no request, and ends; where another answer is on its way, only ends behind what it has."""
        _log.info("no request", status=error.status, code=error.code)
        self._is_refused = True
        self._forget_timer()
        if self._is_answering:
            self.transport.close()
            return
        response = error.response()
        headers = [*response.raw_headers, (b"connection", b"close"), (b"x-content-type-options", b"nosniff")]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(STATUS_LINE[error.status] + head + b"\r\n" + bytes(response.body))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._timer = self.loop.call_later(LINGER_S, self.transport.close)
