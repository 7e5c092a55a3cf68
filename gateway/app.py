"""The application: its routes, what all requests pass, and every failure as an error that clients know."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

import rstitch
from gateway.described import FAILURES
from gateway.errors import ApiError, of_router
from gateway.exposure import KeysAsked
from gateway.figures import Figures
from gateway.middleware import Bounds, Told
from gateway.native import routes as native
from gateway.openai import routes as openai
from gateway.openai.stored import router as stored
from gateway.openai.tokens import router as tokens
from gateway.page import routes as page
from gateway.room import Room
from gateway.settings import GatewaySettings
from gateway.states import router as states
from rstitch.client.aio import AsyncClient
from rstitch.errors import RstitchError
from rstitch.limits import is_loopback
from rstitch.service.metrics import NO_METRICS, Metrics

_MIB = 1 << 20
# By pydantic, to the place of a value that may be of several kinds.
_ADDED = ("str", "int", "float", "bool", "[key]")


def make_app(settings: GatewaySettings, client: AsyncClient, metrics: Metrics = NO_METRICS) -> FastAPI:
    """Makes the application, which asks the router by `client`."""
    app = FastAPI(
        title="rstitch",
        version=rstitch.__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=FAILURES,
    )
    app.state.settings, app.state.client, app.state.metrics = settings, client, metrics
    for router in (states, openai.router, stored, tokens, native.router, page.router):
        app.include_router(router)
    app.add_exception_handler(ApiError, _told)
    app.add_exception_handler(RstitchError, _told)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    if not is_loopback(settings.http_listen) and not settings.insecure:
        app.add_middleware(KeysAsked, client=client)
    app.add_middleware(
        Bounds,
        max_bytes=round(settings.max_body_mib * _MIB),
        timeout_s=settings.body_timeout_s,
        hosts=settings.hosts(),
        room=Room(
            round(settings.max_bodies_mib * _MIB),
            of_address=round(settings.address_mib() * _MIB),
            of_key=round(settings.key_mib() * _MIB),
        ),
    )
    app.add_middleware(Told, figures=Figures(metrics))
    return app


async def _told(request: Request, error: Exception) -> Response:
    made = of_router(error) if isinstance(error, RstitchError) else error
    assert isinstance(made, ApiError)
    return made.response()


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] in ("json_invalid", "json_type"):
        return ApiError(400, "The body is no JSON. Send an object.", code="invalid_json").response()
    param = _place(first["loc"])
    if not param and first["type"] == "value_error":
        return ApiError(400, f"The body: {first['ctx']['error']}. Send less.", code="invalid_value").response()
    if not param:
        return ApiError(400, "The body is no object of JSON. Send one.", code="invalid_json").response()
    missing = first["type"] == "missing"
    what = "it is missing. Send it." if missing else f"{first['msg'][:1].lower()}{first['msg'][1:]}. Correct it."
    return ApiError(400, f"{param}: {what}", param, "missing_parameter" if missing else "invalid_value").response()


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.NOT_FOUND:
        what, code = f"There is no {request.method} {request.url.path[:200]}.", "not_found"
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        what, code = f"{request.url.path[:200]} takes no {request.method}.", "method_not_allowed"
    elif error.status_code == HTTPStatus.BAD_REQUEST:  # what json cannot read, such as a number of 5,000 digits
        what, code = "The body is no JSON that can be read. Send an object.", "invalid_json"
    else:
        what, code = str(error.detail), "invalid_request"
    made = ApiError(error.status_code, what, code=code)
    response = made.response()
    response.headers.update(error.headers or {})
    return response


def _place(location: Sequence[Any]) -> str:
    """Writes where in the body a value is, without what pydantic adds of unions."""
    made = ""
    for part in location[1:]:  # the first says whether it is in the body or elsewhere
        if isinstance(part, int):
            made += f"[{part}]"
        elif part not in _ADDED and not part.startswith(("list[", "constrained", "dict[")):
            made += f".{part}" if made else part
    return made
