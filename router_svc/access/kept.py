"""How many trajectories a tenant has, for the limit of a key. It decides nothing.

They lie in many slots of a cluster, so that no script sees them beside what the key has. They are counted first:

    1. the key's slots (requests admitted whose answers have not ended), and how often these have changed
    2. which of their sessions are among the tenant's trajectories, then how many of these there are
    3. admit.lua: a slot's session counts unless it was among them; where slots have changed since, it asks again

Whoever begins a trajectory between 2 and 3 still has a slot then, or slots have changed: nobody is missed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from router_svc.trajectory import keys
from router_svc.trajectory.session_names import session_name
from rstitch.service.caller import Caller
from storage.redis_link import RedisLink

# A slot is named by its request, 32 digits, and its session.
_REQUEST_CHARS = 32


@dataclass(frozen=True, slots=True)
class Kept:
    """How many trajectories a key's limit counts, as of one moment: if slots change later it is counted again."""

    changes: int = 0  # of slots, before
    num: int = 0
    wait_ms: int = 0  # until one of those is forgotten that are too many
    sessions: Sequence[str] = ()  # those of slots, and the one asked for, that were among them

    def as_arguments(self, *, is_last: bool) -> list[int | str]:
        """As admit.lua has them; what is counted the last time is not to be counted again."""
        return ["" if is_last else self.changes, self.num, self.wait_ms, *self.sessions]


class KeptTrajectories:
    """Counts trajectories that were not forgotten; `now_ms` gives the time, "": that of the clock."""

    def __init__(self, link: RedisLink, ttl_ms: int, now_ms: Callable[[], int | str]) -> None:
        self._link = link
        self._ttl_ms = ttl_ms
        self._now_ms = now_ms

    async def number(self, tenant: str) -> int:
        """How many a tenant has. Raises RstitchError (UNAVAILABLE)."""
        _, since = self._times()
        return sum(await self._link.together(*(("ZCOUNT", index, since, "+inf") for index in keys.indexes(tenant))))

    async def count(self, who: Caller, session_id: str, limit: int) -> Kept:
        """Counts for a request in a session of a key with that limit. Raises RstitchError (UNAVAILABLE)."""
        slots, changes = keys.quota(who.key_id, "running"), keys.quota(who.key_id, "changes")
        before, members = await self._link.at_once(slots, ("GET", changes), ("ZRANGE", slots, 0, -1))
        ids = {member.decode()[_REQUEST_CHARS:] for member in members} | {session_id}
        asked = sorted(ids - {""})
        now, since = self._times()
        listings = [keys.of_session(session_name(who.tenant, each)).listing for each in asked]
        indexes = keys.indexes(who.tenant)
        # In this order: what is begun in between is counted as a trajectory and as a slot, and not as neither.
        found = await self._link.together(
            *(("ZSCORE", listing, each) for listing, each in zip(listings, asked, strict=True)),
            *(("ZCOUNT", index, since, "+inf") for index in indexes),
        )
        scores, num = found[: len(asked)], sum(found[len(asked) :])
        kept = [
            each
            for each, score in zip(asked, scores, strict=True)
            if score is not None and float(score) > now - self._ttl_ms
        ]
        wait_ms = 0
        if num >= limit and session_id not in kept:
            wait_ms = max(1, await self._oldest(indexes, since, num - limit) + self._ttl_ms - now)
        return Kept(int(before or 0), num, wait_ms, kept)

    async def _oldest(self, indexes: Sequence[str], since: str, place: int) -> int:
        """When the trajectory changed last before which there are so many others."""
        asked = (("ZRANGEBYSCORE", index, since, "+inf", "WITHSCORES", "LIMIT", 0, place + 1) for index in indexes)
        times = sorted(int(time_ms) for reply in await self._link.together(*asked) for time_ms in reply[1::2])
        return times[min(place, len(times) - 1)] if times else 0

    def _times(self) -> tuple[int, str]:
        """The time in Unix ms, and what is less than the times of trajectories that were not forgotten."""
        given = self._now_ms()
        now = time.time_ns() // 1_000_000 if given == "" else int(given)
        return now, f"({now - self._ttl_ms}"
