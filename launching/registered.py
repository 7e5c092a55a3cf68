"""What the workers of a fleet announce, read once. It keeps no connection: actors read seldom, from threads."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from fleet.announcement import Announcement
from fleet.registry import Registry
from launching.plan import ROLES
from storage.redis_address import RedisAddress
from storage.redis_link import RedisLink

# The variables that say how Redis is reached beside its URL, as services and `rstitch keys` read them.
LOGIN = ("RSTITCH_REDIS_CA", "RSTITCH_REDIS_CERT", "RSTITCH_REDIS_KEY", "RSTITCH_REDIS_PASSWORD_FILE")


def read(fleet: str, url: str, login: Mapping[str, str]) -> dict[str, Announcement]:
    """All living workers of a fleet, by id. Raises RstitchError (UNAVAILABLE, or a flag that cannot be)."""
    return asyncio.run(_read(fleet, RedisAddress(url, *(login.get(name, "") for name in LOGIN))))


async def _read(fleet: str, address: RedisAddress) -> dict[str, Announcement]:
    link = RedisLink(address, patience_s=0)
    try:
        registry = Registry(link, fleet)
        return {each.id: each for role in ROLES for each in await registry.read(role)}
    finally:
        await link.close()
