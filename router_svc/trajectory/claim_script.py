"""Runs claim.lua. Where replicas are waited for, a claim is done when they have it: who is told that an answer has
begun will find it, whichever server is the primary then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from storage.confirming import Confirming
from storage.redis_link import RedisLink
from storage.scripts import ClusterScript


class ClaimScript:
    """A script that is called like any command or, with `confirming`, one call at a time on a connection of its own.

    `WAIT` is about what its own connection wrote.
    """

    def __init__(self, link: RedisLink, text: str, confirming: Confirming | None) -> None:
        self._plain: Any = link.redis.register_script(text)
        self._confirmed = link.script(text, confirming) if confirming is not None else None
        self._turn = asyncio.Lock()

    async def __call__(self, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Returns the script's reply. Raises what redis raises."""
        if self._confirmed is None:
            return await self._plain(keys=keys, args=args)
        async with self._turn:
            if not isinstance(self._confirmed, ClusterScript):
                return await self._confirmed(keys, args)
            (reply,) = await self._confirmed.many([(keys, args)])
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def close(self) -> None:
        if self._confirmed is not None:
            await self._confirmed.close()
