"""What every request passes: bounds of its size and time, who may send it from a browser, and headers of the answer.

It knows no route.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
import uuid
from collections.abc import Iterable

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.connection import LINGER_S
from gateway.errors import ApiError
from gateway.figures import Figures
from gateway.holders import holders_of
from gateway.room import Room, Share

_log = structlog.get_logger(__name__)
_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# Nothing of ours is framed, guessed at, or told to others.
_SECURITY = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}


class Bounds:
    """Refuses bodies that are too large, too slow or no JSON, and requests for other hosts than this.

    Only a body that says it is JSON is taken: a page of somebody else can make a browser send any other kind to here.
    With `hosts`, so is a page refused that made the browser believe this to be its own host. A body takes room until
    its answer has ended: what is made of it lives as long.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, timeout_s: float, hosts: Iterable[str], room: Room) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._hosts = frozenset(hosts)
        self._room = room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        coming, headers = _Body(receive), Headers(scope=scope)
        with self._room.share(holders_of(scope, headers)) as share:
            try:
                body = await self._body(headers, coming, share)
            except ApiError as error:
                error.__traceback__ = error.__context__ = None  # their frames hold what came
                share.resize(0)
                await _refuse(error, coming, send)
                return
            await self._app(scope, _replayed(body, receive), send)

    async def _body(self, headers: Headers, coming: _Body, share: Share) -> bytes:
        host = headers.get("host", "").rpartition("@")[2]
        name = re.sub(r":\d*$", "", host).strip("[]").lower()
        if self._hosts and name not in self._hosts:
            what = f"This is not {host[:200]!r}. Ask by the address that it listens on."
            raise ApiError(421, what, code="WRONG_HOST")
        if (told := headers.get("content-length", "")) and (not told.isdigit() or int(told) > self._max_bytes):
            raise self._too_large()
        if headers.get("content-encoding", "identity") != "identity":
            raise ApiError(415, "A compressed body is not taken. Send it as it is.", code="UNSUPPORTED_ENCODING")
        pieces, size = [], 0
        try:
            async with asyncio.timeout(self._timeout_s):
                while not coming.is_whole:
                    pieces.append(await coming.next())
                    size += len(pieces[-1])
                    if size > self._max_bytes:
                        raise self._too_large()
                    share.resize(size)
        except TimeoutError:
            what = f"The body did not come within {self._timeout_s:g} s. Send it faster."
            raise ApiError(408, what, code="SLOW_BODY") from None
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if size and kind != "application/json":
            raise ApiError(415, "The body is to be JSON. Send `Content-Type: application/json`.", code="NOT_JSON")
        return b"".join(pieces)

    def _too_large(self) -> ApiError:
        return ApiError(413, f"The body is larger than {self._max_bytes} bytes. Send less.", code="MESSAGE_TOO_LARGE")


class _Body:
    """A request's body as it comes."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.is_whole = False

    async def next(self) -> bytes:
        """Waits for the next piece. Raises: ApiError (499) if the client has left."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.is_whole = True
            raise ApiError(499, "The client has left.", code="CLIENT_LEFT")
        self.is_whole = not message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        return piece


async def _refuse(error: ApiError, coming: _Body, send: Send) -> None:
    """Answers, drops for a moment what is still coming, and ends: a connection that ends over it loses its answer."""
    response = error.response()
    response.headers["connection"] = "close"
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    with contextlib.suppress(TimeoutError, ApiError):
        async with asyncio.timeout(LINGER_S):
            while not coming.is_whole:
                await coming.next()
    await send({"type": "http.response.body"})


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Gives the application a body that has come, and then whatever comes."""
    is_given = False

    async def replay() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


class Told:
    """Names each request, closes what browsers could do with its answer, counts and logs it: what and how, no text."""

    def __init__(self, app: ASGIApp, *, figures: Figures) -> None:
        self._app = app
        self._figures = figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope).get("x-request-id", "")
        request_id = asked if _ID.fullmatch(asked) else uuid.uuid4().hex
        status, began = 0, time.perf_counter()

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                for name, value in _SECURITY.items():
                    headers.setdefault(name, value)
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id), self._figures.active():
            try:
                await self._app(scope, receive, told)
            except Exception:
                _log.exception("request failed")
                if status:  # it has begun: all that can be said is that it does not end well
                    raise
                await ApiError(500, "The gateway failed; its log says why.", code="INTERNAL").response()(
                    scope, receive, told
                )
            finally:
                spent = time.perf_counter() - began
                route = getattr(scope.get("route"), "path", "")
                self._figures.took(spent, scope["method"], route, status)
                level = _log.debug if scope["path"] in ("/health", "/ready", "/metrics") else _log.info
                level(
                    "request",
                    method=scope["method"],
                    path=scope["path"][:200],
                    status=status,
                    ms=round(1000 * spent, 1),
                )
