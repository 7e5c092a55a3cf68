"""A real Redis, routers in this process, and a real worker, for whoever tries their locks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.support.pairs import save_model
from tests.support.redis_process import RedisProcess
from tests.support.toy_stack import Stack


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


@pytest.fixture
async def stack(redis_url: str) -> AsyncIterator[Stack]:
    made = Stack(redis_url)
    await made.slm.start()
    await made.llm.start()
    yield made
    await made.close()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "llama", "llama", seed=0)
