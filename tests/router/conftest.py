"""Real Redis, toy workers on a real wire, routers in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from router_svc.trajectory.store import TrajectoryStore
from storage.redis_address import RedisAddress
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


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[TrajectoryStore]:
    made = TrajectoryStore(RedisAddress(redis_url), ttl_s=50, patience_s=1)
    yield made
    await made.close()
