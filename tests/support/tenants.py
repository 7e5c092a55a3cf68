"""Callers of several tenants, before there are keys: whoever calls says in metadata whose it is, and is believed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc

from rstitch.service.caller import Caller, set_caller
from rstitch.service.handlers import Context, Continuation, Handler, in_scope, is_infrastructure
from rstitch.service.interceptors import ErrorInterceptor

_KEY = "x-test-tenant"


class Believing(ErrorInterceptor):
    """Stands in for the server kit's own: the same, and each call is its tenant's."""

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        handler = await super().intercept_service(continuation, handler_call_details)
        if handler is None or is_infrastructure(handler_call_details.method):
            return handler

        @asynccontextmanager
        async def scope(context: Context) -> AsyncIterator[None]:
            told = dict(context.invocation_metadata() or ())
            set_caller(Caller(tenant=str(told.get(_KEY, ""))))
            yield

        return in_scope(handler, scope)


class OfTenant:
    """A router's stub as one tenant calls it; "" says nothing."""

    def __init__(self, stub: Any, tenant: str) -> None:
        self._stub = stub
        self._metadata = ((_KEY, tenant),) if tenant else ()

    def __getattr__(self, method: str) -> Any:
        return partial(getattr(self._stub, method), metadata=self._metadata)
