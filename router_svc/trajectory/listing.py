"""Pages of a tenant's trajectories, those that changed last first. It reads headers only, and changes nothing.

A tenant's sessions are spread over shards, each with an index that is sorted as the pages are. A page merges them: of
each it reads a few entries, and more of those that turn out to have most of the page.
"""

from __future__ import annotations

from math import isqrt

from router_svc.trajectory import keys
from router_svc.trajectory.answer_record import decode_header
from router_svc.trajectory.session_names import session_name
from router_svc.trajectory.types import Header
from storage.redis_link import RedisLink

# Where a page of the listing ended: when the last trajectory on it changed, in Unix ms, and its session id.
Cursor = tuple[int, str]


class Listing:
    """Merges the indexes of a tenant's shards into pages, newest first, and reads the headers that they name."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    async def page(
        self, num: int, before: Cursor | None, *, tenant: str = "", labelled: bool = False
    ) -> tuple[list[Header], Cursor | None]:
        """One page of up to `num` headers of a tenant, the trajectories that changed last first, and where it ended.

        The next page begins there; None: there is none. With `labelled` there are only those that have a label.
        """
        found: list[Header] = []
        indexes = keys.all_labelled(tenant) if labelled else keys.indexes(tenant)
        entries = _Merged(self._link, indexes, before, num)
        while True:
            batch = await entries.take(num - len(found))
            names = [keys.trajectory(session_name(tenant, session_id)) for _, session_id in batch]
            headers = await self._link.together(*(("HGETALL", name) for name in names)) if names else []
            for entry, fields in zip(batch, headers, strict=True):
                before = entry
                # Redis drops expired hashes by itself, but their names stay in the index until the next claim tidies
                # it. A label may have been taken back since the entry was read, or be of an answer before.
                header = decode_header(entry[1], fields) if fields else None
                if header is not None and (header.label is not None or not labelled):
                    found.append(header)
            if await entries.are_over():
                return found, None
            if len(found) == num:
                return found, before


class _Shard:
    """The index of one shard, from an entry on."""

    def __init__(self, key: str, before: Cursor | None) -> None:
        self.key = key
        self.entries: list[Cursor] = []  # read and not taken, the last one to be taken first
        self.is_read = False  # to its end
        self._before = before
        self._skip = 0

    def command(self, num: int) -> tuple[object, ...]:
        """What reads up to `num` entries behind those that were read."""
        top = self._before[0] if self._before else "+inf"
        return ("ZREVRANGEBYSCORE", self.key, top, "-inf", "WITHSCORES", "LIMIT", self._skip, num)

    def take_in(self, reply: list[bytes], num: int) -> None:
        """Takes the reply to `command`."""
        entries = [(int(score), name.decode()) for name, score in zip(reply[::2], reply[1::2], strict=True)]
        self.is_read = len(entries) < num
        # Redis can begin at a score, not at an entry. Of equal scores the greater id comes first, so tuples compare as
        # the index is sorted; those of the score that were read before are skipped.
        fresh = [entry for entry in entries if self._before is None or entry < self._before]
        if fresh:
            self._before, self._skip = fresh[-1], 0
            self.entries = fresh[::-1]
        else:
            self._skip += len(entries)


class _Merged:
    """The entries of all shards in one order."""

    def __init__(self, link: RedisLink, indexes: list[str], before: Cursor | None, num: int) -> None:
        self._link = link
        self._shards = [_Shard(index, before) for index in indexes]
        # A little more than a shard has of a page, so that nearly all pages take one round trip.
        share = num // len(indexes)
        self._num = share + 2 * isqrt(share) + 4

    async def take(self, num: int) -> list[Cursor]:
        """The next `num` entries; fewer at the end."""
        taken: list[Cursor] = []
        while len(taken) < num and not await self.are_over():
            taken.append(max(self._left(), key=lambda shard: shard.entries[-1]).entries.pop())
        return taken

    async def are_over(self) -> bool:
        """Says whether none is left; which is the next one is known then, as of each shard some are read."""
        while lacking := [shard for shard in self._shards if not (shard.entries or shard.is_read)]:
            replies = await self._link.together(*(shard.command(self._num) for shard in lacking))
            for shard, reply in zip(lacking, replies, strict=True):
                shard.take_in(reply, self._num)
        return not self._left()

    def _left(self) -> list[_Shard]:
        return [shard for shard in self._shards if shard.entries]
