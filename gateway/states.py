"""Whether the gateway lives, whether questions are taken, and which version this is."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

import rstitch
from gateway.callers import client_of
from gateway.errors import ApiError, of_router
from rstitch.errors import RstitchError
from rstitch.limits import is_loopback
from rstitch.service.metrics import Metrics

router = APIRouter(tags=["state"])
_PATIENCE_S = 5.0


@router.get("/health")
async def health() -> dict[str, str]:
    """Says that the process lives; it does not ask the router."""
    return {"status": "ok"}


@router.get("/ready")
async def ready(request: Request) -> Response:
    """Says whether the router takes questions: 200 or 503. A router that wants a key is ready to refuse."""
    try:
        status = await client_of(request).status(timeout_s=_PATIENCE_S)
    except RstitchError as error:
        if (failed := of_router(error)).status in (401, 403):
            return JSONResponse({"status": "ready"})
        raise ApiError(503, failed.message, code=failed.code, retry_after_s=1) from None
    if not status.ready:
        raise ApiError(503, f"The router takes no questions yet: {status.detail}", code="NOT_READY", retry_after_s=1)
    return JSONResponse({"status": "ready"})


@router.get("/metrics", responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Tells what is counted, to whoever the router would tell its state; while it is away, to this machine alone."""
    try:
        await client_of(request).status(timeout_s=_PATIENCE_S)
    except RstitchError as error:
        failed = of_router(error)
        if failed.status in (401, 403) or not is_loopback(request.app.state.settings.http_listen):
            raise failed from None
    made: Metrics = request.app.state.metrics
    body, kind = await asyncio.to_thread(made.exposition, request.headers.get("accept", ""))
    return Response(body, headers={"content-type": kind})


@router.get("/version")
async def version() -> dict[str, Any]:
    """Tells the version."""
    return {"version": rstitch.__version__}
