"""A real worker in this process: real model, real server, real bytes on a port of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from model_worker.engine.engine import Engine
from model_worker.main import Worker, start
from model_worker.role import Role
from model_worker.settings import WorkerSettings
from rstitch.v1 import common_pb2, worker_pb2_grpc
from storage.redis_address import RedisAddress
from storage.redis_link import RedisLink
from tests.support.pairs import save_model
from tests.support.redis_process import RedisProcess

ROLE = Role("slm", common_pb2.MODEL_SLM, WorkerSettings)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "llama", "llama", seed=0)


@pytest.fixture(scope="session")
def redis_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    process = RedisProcess(tmp_path_factory.mktemp("redis"))
    process.start()
    yield process
    process.stop()


@pytest.fixture
async def link(redis_process: RedisProcess) -> AsyncIterator[RedisLink]:
    redis_process.start()
    made = RedisLink(RedisAddress(redis_process.url), patience_s=0)
    await made.redis.flushall()
    yield made
    await made.close()


StartWorker = Callable[..., Awaitable[tuple[Worker, worker_pb2_grpc.WorkerServiceStub]]]


@pytest.fixture
async def start_worker(model_folder: Path) -> AsyncIterator[StartWorker]:
    """Starts workers with the given settings; afterwards checks that none has leaked a page, and stops them."""
    running: list[tuple[Worker, grpc.aio.Channel]] = []

    def on_fatal(error: BaseException) -> None:
        raise AssertionError("the engine's thread died") from error

    async def begin(**settings: Any) -> tuple[Worker, worker_pb2_grpc.WorkerServiceStub]:
        defaults = {"model": str(model_folder), "listen": "127.0.0.1:0", "dtype": "float64", "threads": 1}
        worker = await start(ROLE, WorkerSettings(**(defaults | settings)), on_fatal)
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{worker.port}")
        running.append((worker, channel))
        return worker, worker_pb2_grpc.WorkerServiceStub(channel)

    yield begin
    for worker, channel in running:
        await channel.close()
        await worker.driver.ask(Engine.check_integrity)
        await worker.stop()
