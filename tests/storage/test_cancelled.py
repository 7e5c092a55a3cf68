"""Whoever cancels a call to Redis ends it, though the library may swallow the cancellation."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.exceptions import ConnectionError

from storage.redis_address import RedisAddress
from storage.redis_link import RedisLink


@pytest.mark.parametrize("outcome", [ConnectionError("reset"), None])
async def test_a_cancellation_that_the_library_forgot_is_not_forgotten(outcome: Exception | None) -> None:
    """`asyncio.wait_for` of Python 3.11 does, if what it waits for ends, well or not, at that moment."""
    link, begun = RedisLink(RedisAddress("redis://127.0.0.1:1/0"), patience_s=60), asyncio.Event()

    async def forgetful() -> Any:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if outcome is not None:
                raise outcome from None
        return b"OK"

    call = asyncio.create_task(link.call(forgetful))
    await begun.wait()
    call.cancel()
    async with asyncio.timeout(5):
        await asyncio.wait({call})
    assert call.cancelled()
    await link.close()
