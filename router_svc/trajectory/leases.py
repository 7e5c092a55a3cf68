"""Leases of routers in Redis: while one is there, its router lives. It knows no trajectory."""

from __future__ import annotations

import structlog

from router_svc.trajectory import keys
from rstitch.errors import RstitchError
from storage.redis_link import RedisLink

_log = structlog.get_logger(__name__)


async def lease_ms(link: RedisLink, router_id: str, patience_s: float | None = None) -> int:
    """How long a router's lease still lasts; 0: it is gone, or was never there."""
    left: int = await link.call(lambda: link.redis.execute_command("PTTL", keys.router(router_id)), patience_s)
    return max(0, left)


async def renew(link: RedisLink, router_id: str, lease_s: float) -> None:
    """Says that a router lives, for `lease_s` from now. Raises RstitchError (UNAVAILABLE) after one try."""
    await link.call(lambda: link.redis.set(keys.router(router_id), 1, px=int(lease_s * 1000)), patience_s=0)


async def resign(link: RedisLink, router_id: str) -> None:
    """Ends a router's lease, so that others need not wait for it. Tries once: it also runs out by itself."""
    try:
        await link.call(lambda: link.redis.delete(keys.router(router_id)), patience_s=0)
    except RstitchError as error:
        _log.warning("lease not given back", error=str(error))
