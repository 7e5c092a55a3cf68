"""A thousand kills, drains, cancels and failovers: no stream fails, no token is lost or another one, nothing stays.

RSTITCH_STORM_EVENTS and RSTITCH_STORM_EVERY_S make it a shorter one.
"""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from redis.asyncio import Redis

from rstitch.client.aio import AsyncClient
from rstitch.local.stack import GatewayOptions
from tests.support.asking import until
from tests.support.conversations import Conversation, infos
from tests.support.fleet_storm import FleetStorm
from tests.support.redis_sentinel import SentinelProcesses
from tests.support.served import Pair, start_stack

_EVENTS = int(os.environ.get("RSTITCH_STORM_EVENTS", "1000"))
_EVERY_S = float(os.environ.get("RSTITCH_STORM_EVERY_S", "3.6"))
# What is no session's: who lives, and what is kept for good.
_NOT_OF_SESSIONS = ("rstitch:{fleet:", "rstitch:router:")


@pytest.mark.soak
@pytest.mark.timeout(60 + 4 * _EVENTS * _EVERY_S)
async def test_a_storm_changes_no_token_and_leaves_nothing(random_pair: Pair, tmp_path: Path) -> None:
    conversations = [Conversation.drawn(number, num_turns=2, max_new_tokens=120) for number in range(12)]
    with (
        # A server that is slow for half a second, under all this, is not to be taken for dead.
        SentinelProcesses(tmp_path / "redis", down_after_ms=2000) as redis,
        # What only a primary has when it is killed would be lost: what is shown is to be on the replica, too.
        start_stack(
            random_pair,
            router_args=["--redis-wait", "1:2000"],
            num_slm=2,
            num_llm=2,
            num_routers=2,
            gateway=GatewayOptions(),
            redis_url=redis.url,
        ) as stack,
    ):
        async with AsyncExitStack() as exits:
            together = ",".join(part.address for part in stack.routers)
            clients = [
                await exits.enter_async_context(AsyncClient(together, timeout_s=300, reconnect_s=120)) for _ in range(2)
            ]
            storm = FleetStorm(stack, redis, clients, conversations, seed=1)
            await storm.blow(_EVENTS, _EVERY_S)
            came = f"{storm.num_answers} answers, {storm.num_lost} streams over HTTP lost"
            print(f"{dict(storm.done)}; {came}; longest silence {storm.slowest_s:.1f} s")
            assert storm.num_answers > _EVENTS / 4
            assert storm.num_lost > 0 or storm.done["kill gateway"] < 5

            async def no_page_is_left() -> bool:
                rooms = [info.capacity for info in (await infos(stack)).values()]
                return all(room.num_free_pages == room.num_pages and not room.num_sessions for room in rooms)

            await until(no_page_is_left, 60)
            async with Redis(port=redis.primary.port) as client:
                left = [key async for key in client.scan_iter("rstitch:*")]
            assert [key for key in left if not key.decode().startswith(_NOT_OF_SESSIONS)] == []
