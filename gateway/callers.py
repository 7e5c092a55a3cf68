"""Who asks: the key of a request, handed on as it is. The router alone knows what it is worth."""

from __future__ import annotations

import re

from starlette.requests import Request

from gateway.errors import ApiError
from rstitch.client.aio import AsyncClient

_MAX_KEY = 4096
_PARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_STATE = re.compile(r"[!-~][ -~]{0,511}")


def client_of(request: Request) -> AsyncClient:
    """Gives a client that asks with the request's key, and within its trace.

    Raises: ApiError (401) for a header that is no key.
    """
    given: AsyncClient = request.app.state.client
    key = key_of(request)
    trace = _trace_of(request)
    if not key and not trace:
        return given
    return given.showing([*([("authorization", f"Bearer {key}")] if key else []), *trace])


def _trace_of(request: Request) -> list[tuple[str, str]]:
    """Gives the request's trace as W3C has it; what is none is dropped, as nobody would be helped by a refusal."""
    parent, state = (request.headers.get(name, "") for name in ("traceparent", "tracestate"))
    if not _PARENT.fullmatch(parent):
        return []
    return [("traceparent", parent), *([("tracestate", state)] if _STATE.fullmatch(state) else [])]


def key_of(request: Request) -> str:
    """Gives the key that a request shows, "" if it shows none."""
    header = request.headers.get("authorization", "")
    scheme, _, key = header.partition(" ")
    key = key.strip()
    good = scheme.lower() == "bearer" and 0 < len(key) <= _MAX_KEY and key.isascii() and key.isprintable()
    if header and not good:
        raise ApiError(401, "Send the key as `Authorization: Bearer KEY`.", code="invalid_api_key")
    return key
