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
    """Two toy workers, more of a role if a test wants them, and as many routers."""

    def __init__(self, redis_url: str) -> None:
        self.redis_url = redis_url
        self.slm = FakeWorker(1, ToyModel(seed=1))
        self.llm = FakeWorker(2, ToyModel(seed=2))
        self.slms, self.llms = [self.slm], [self.llm]
        self._exits = AsyncExitStack()

    async def grow(self, slms: int = 1, llms: int = 1, host: str = "") -> None:
        """Starts further workers, that there are so many, as the first of their role is now; called slm-0, slm-1 ...

        With a host they have the first one's port there.
        """
        for role, name, workers, num in ((1, "slm", self.slms, slms), (2, "llm", self.llms, llms)):
            first = workers[0]
            while len(workers) < num:
                worker = FakeWorker(role, first.model, seed=len(workers))
                worker.delay_s, worker.evict_share, worker.files = first.delay_s, first.evict_share, first.files
                worker.weights_fingerprint = first.weights_fingerprint
                if host:
                    worker.host, worker.port = host, first.port
                workers.append(worker)
                await worker.start()
            for index, worker in enumerate(workers):
                worker.worker_id = f"{name}-{index}"

    def settings(self, **changes: Any) -> RouterSettings:
        values: dict[str, Any] = {
            "slm": ",".join(worker.address for worker in self.slms),
            "llm": ",".join(worker.address for worker in self.llms),
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
        for worker in (*self.slms, *self.llms):
            await worker.stop()


def script(stack: Stack, slm: Scripted, llm: Scripted) -> None:
    stack.slm.model, stack.llm.model = slm, llm
    stack.slm.evict_share = stack.llm.evict_share = 0
