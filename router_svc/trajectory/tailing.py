"""A trajectory as it grows, for those who do not write it: what came since they looked last, and whose it is.

It asks Redis when it is asked, and knows neither readers nor how often they look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from router_svc.trajectory import keys
from router_svc.trajectory.answer_record import decode_chunk, decode_header
from router_svc.trajectory.leases import lease_ms
from router_svc.trajectory.session_names import id_in
from router_svc.trajectory.types import Chunk, Header
from storage.redis_link import RedisLink

# Entries of a stream with their ids, as Redis gives them.
Entries = list[tuple[bytes, dict[bytes, bytes]]]
# Decoded in a few milliseconds; a long answer has thousands.
MANY_ENTRIES = 256


@dataclass(frozen=True, slots=True)
class Tail:
    """What a look found: the header, and chunks behind `cursor`, of a long trajectory not all of them at once.

    Attributes:
        cursor: what the next look begins behind.
        is_cancelled: whether somebody wants the answer to end, or had it ended.
    """

    header: Header
    chunks: Sequence[Chunk]
    cursor: bytes
    is_cancelled: bool


class Tailing:
    """Looks at trajectories and at the leases of those who write them."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    async def look(self, name: str, cursor: bytes = b"") -> Tail | None:
        """Gives what follows `cursor` (b"": all of it), as of one moment; None if there is no such trajectory."""
        header, chunks_key = keys.trajectory(name), keys.chunks(name)
        since = b"(" + cursor if cursor else "-"
        look = ("XRANGE", chunks_key, since, "+", "COUNT", MANY_ENTRIES)
        fields: dict[bytes, bytes]
        entries: Entries
        fields, entries = await self._link.at_once(header, ("HGETALL", header), look)
        if not fields:
            return None
        is_cancelled = fields.get(b"cancelled") == fields[b"epoch"]
        chunks = await decoded(entries)
        return Tail(decode_header(id_in(name), fields), chunks, entries[-1][0] if entries else cursor, is_cancelled)

    async def lease_ms(self, router_id: str) -> int:
        """Gives how long a router's lease still lasts; 0: it is gone, or was never there."""
        return await lease_ms(self._link, router_id)


async def decoded(entries: Entries) -> tuple[Chunk, ...]:
    """Gives the chunks of entries; beside the event loop where they are many, or hold what heads were asked.

    That may be megabytes. Details of tokens stay packed.
    """
    if len(entries) > MANY_ENTRIES or any(b"c" in entry for _, entry in entries):
        return await asyncio.to_thread(_decode, entries)
    return _decode(entries)


def _decode(entries: Entries) -> tuple[Chunk, ...]:
    return tuple(decode_chunk(entry) for _, entry in entries)
