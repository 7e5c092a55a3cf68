"""Who asks: the key of a request, handed on as it is. The router alone knows what it is worth."""

from __future__ import annotations

from starlette.requests import Request

from gateway.errors import ApiError
from rstitch.client.aio import AsyncClient


def client_of(request: Request) -> AsyncClient:
    """Gives a client that asks with the request's key, and within its trace.

    Raises: ApiError (401) for a header that is no key.
    """
    given: AsyncClient = request.app.state.client
    key = key_of(request)
    trace = [(name, value) for name in ("traceparent", "tracestate") if (value := request.headers.get(name))]
    if not key and not trace:
        return given
    return given.showing([*([("authorization", f"Bearer {key}")] if key else []), *trace])


def key_of(request: Request) -> str:
    """Gives the key that a request shows, "" if it shows none."""
    header = request.headers.get("authorization", "")
    scheme, _, key = header.partition(" ")
    key = key.strip()
    if header and (scheme.lower() != "bearer" or not key or not (key.isascii() and key.isprintable())):
        raise ApiError(401, "Send the key as `Authorization: Bearer KEY`.", code="invalid_api_key")
    return key
