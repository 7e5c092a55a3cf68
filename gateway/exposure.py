"""Whether the router asks for keys: a gateway that others reach answers nobody before one that does not."""

from __future__ import annotations

import asyncio
import time

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import ApiError, of_router
from rstitch.client.aio import AsyncClient
from rstitch.errors import RstitchError

_HOLDS_S = 10.0
_PATIENCE_S = 5.0


class KeysAsked:
    """Lets requests through to a router that asks for keys; only whether the process lives is told in any case.

    The router is asked without a key, now and then, as it may be started anew without.
    """

    def __init__(self, app: ASGIApp, *, client: AsyncClient) -> None:
        self._app = app
        self._client = client
        self._looking = asyncio.Lock()
        self._good_until = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "/health" and (error := await self._refusal()) is not None:
            await error.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _refusal(self) -> ApiError | None:
        if time.monotonic() < self._good_until:
            return None
        async with self._looking:
            if time.monotonic() < self._good_until:
                return None
            try:
                await self._client.status(timeout_s=_PATIENCE_S)
            except RstitchError as error:
                failed = of_router(error)
                if failed.status in (401, 403):
                    self._good_until = time.monotonic() + _HOLDS_S
                    return None
                return ApiError(503, failed.message, code=failed.code, retry_after_s=1)
        what = (
            "The router asks nobody for a key, and this gateway is open to the network. Start the router with --keys,"
        )
        return ApiError(503, f"{what} or the gateway with --insecure if nobody but you can reach it.", code="EXPOSED")
