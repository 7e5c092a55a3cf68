"""Toy workers on a real wire, and routers in this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc

from router_svc.main import Router, running
from router_svc.settings import RouterSettings
from rstitch.channels import client_options
from rstitch.service.metrics import NO_METRICS, Metrics
from rstitch.service.telemetry import Telemetry, setup_telemetry
from rstitch.v1 import router_pb2_grpc
from tests.support.fake_worker import FakeWorker
from tests.support.toy import Scripted, ToyModel


class Stack:
    """Two toy workers and as many routers as a test wants."""

    def __init__(self, redis_url: str) -> None:
        self.redis_url = redis_url
        self.slm = FakeWorker(1, ToyModel(seed=1))
        self.llm = FakeWorker(2, ToyModel(seed=2))
        self._exits = AsyncExitStack()

    def settings(self, **changes: Any) -> RouterSettings:
        values: dict[str, Any] = {
            "slm": self.slm.address,
            "llm": self.llm.address,
            "redis": self.redis_url,
            "listen": "127.0.0.1:0",
            "lease_s": 0.6,
            "redis_patience_s": 2.0,
            "worker_patience_s": 5.0,
            "capacity_patience_s": 5.0,
            "catch_up_tokens": 4,
        }
        return RouterSettings(**(values | changes))

    async def router(
        self,
        *,
        telemetry: Telemetry | None = None,
        clock: Callable[[], float] = time.monotonic,
        metrics: Metrics = NO_METRICS,
        ready: bool = True,
        **changes: Any,
    ) -> Router:
        routing = self.routing(telemetry=telemetry, clock=clock, metrics=metrics, **changes)
        router = await self._exits.enter_async_context(routing)
        if ready:
            async with asyncio.timeout(10):
                await router.ready.wait()
        return router

    @asynccontextmanager
    async def routing(
        self,
        *,
        telemetry: Telemetry | None = None,
        clock: Callable[[], float] = time.monotonic,
        metrics: Metrics = NO_METRICS,
        **changes: Any,
    ) -> AsyncIterator[Router]:
        telemetry = telemetry or setup_telemetry("router", None)
        async with running(self.settings(**changes), telemetry, clock, metrics) as router:
            try:
                yield router
            finally:
                await router.sessions.drain()
                await router.server.stop(0)

    async def stub(self, router: Router) -> Any:
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{router.port}", options=client_options())
        await self._exits.enter_async_context(channel)
        return router_pb2_grpc.RouterServiceStub(channel)

    async def close(self) -> None:
        await self._exits.aclose()
        await self.slm.stop()
        await self.llm.stop()


def script(stack: Stack, slm: Scripted, llm: Scripted) -> None:
    stack.slm.model, stack.llm.model = slm, llm
    stack.slm.evict_share = stack.llm.evict_share = 0
