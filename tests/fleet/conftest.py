"""A real Redis for the registry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from storage.redis_address import RedisAddress
from storage.redis_link import RedisLink
from tests.support.redis_process import RedisProcess


@pytest.fixture(scope="session")
def redis_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    process = RedisProcess(tmp_path_factory.mktemp("redis"))
    process.start()
    yield process
    process.stop()


@pytest.fixture
async def link(redis_process: RedisProcess) -> AsyncIterator[RedisLink]:
    async with Redis.from_url(redis_process.url) as client:
        await client.flushall()
    made = RedisLink(RedisAddress(redis_process.url), patience_s=1)
    yield made
    await made.close()
