"""A link to each kind of Redis: one server, a primary that a Sentinel names, a cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from storage.redis_address import RedisAddress
from storage.redis_link import RedisLink
from tests.support.redis_kinds import KINDS, flushed_url


@pytest.fixture(params=KINDS)
async def link(request: pytest.FixtureRequest) -> AsyncIterator[RedisLink]:
    made = RedisLink(RedisAddress(flushed_url(request)), patience_s=10)
    yield made
    await made.close()
