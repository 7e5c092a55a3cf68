"""Lua scripts that are called all the time: what a pool and a general client do for each call takes longer than it.

They try nothing again but what costs nothing; whoever calls them waits out an outage. They know no key of ours.
"""

from __future__ import annotations

import asyncio
import builtins
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio import ConnectionPool
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import ConnectionError, NoScriptError, ResponseError, TimeoutError

from storage.clients import SOCKET_TIMEOUT_S, close_pool, pool_of
from storage.cluster import on_node
from storage.confirming import Confirming
from storage.packed import packed
from storage.redis_address import RedisAddress

# Keys and arguments of one call.
Call = tuple[Sequence[str], Sequence[Any]]


class Script:
    """A Lua script on a connection of its own, for one call at a time. `RedisLink.script` makes it.

    A call is made again at once if the connection has died since the last one, so Redis may run the script twice for
    it. A connection to a primary that Sentinels name is made to whom they name then.
    """

    def __init__(self, address: RedisAddress, text: str, confirming: Confirming | None = None) -> None:
        # Without the socket's own timeout, which makes a task for each write; `_call` has one timeout for all of it.
        self._pool: ConnectionPool = pool_of(address)
        self._connection: Any = self._pool.make_connection()  # type: ignore[no-untyped-call]
        self._text = text
        self._sha = sha_of(text)
        self._confirming = confirming

    async def __call__(self, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Runs the script and returns its reply. Raises what redis raises."""
        # A connection that was open may have been closed by the other side long ago, which only a write shows. A new
        # one that fails is an outage, and that is for `RedisLink.call` to wait out.
        if self._connection.is_connected:
            try:
                return await self._call(keys, args)
            except (ConnectionError, OSError):
                await self._connection.disconnect()
        return await self._call(keys, args)

    async def close(self) -> None:
        await self._connection.disconnect()
        await close_pool(self._pool)

    async def _call(self, keys: Sequence[str], args: Sequence[Any]) -> Any:
        try:
            async with asyncio.timeout(SOCKET_TIMEOUT_S):
                return await self._run(keys, args)
        except builtins.TimeoutError:
            # The reply may still come, and must not be taken for that to the next call.
            await self._connection.disconnect()
            raise TimeoutError(f"no answer within {SOCKET_TIMEOUT_S:g} s") from None

    async def _run(self, keys: Sequence[str], args: Sequence[Any]) -> Any:
        # Redis keeps a script by its checksum until it restarts, so that its text is sent once.
        try:
            return await self._ask("EVALSHA", self._sha, len(keys), *keys, *args)
        except NoScriptError:
            return await self._ask("EVAL", self._text, len(keys), *keys, *args)

    async def _ask(self, *command: Any) -> Any:
        connection, confirming = self._connection, self._confirming
        if not connection.is_connected:
            await connection.connect()  # one to a primary asks here where that is
        if confirming is None:
            await connection.send_packed_command(packed(command))
            return await connection.read_response()
        await connection.send_packed_command(connection.pack_commands([command, confirming.command]))
        try:
            return await connection.read_response()
        finally:
            # Its reply comes, too, also where Redis refused the script.
            if connection.is_connected:
                await confirming.confirm(connection.read_response)


class ClusterScript:
    """The same in a cluster: calls for keys of one node share a round trip, each for keys of one slot."""

    def __init__(self, cluster: RedisCluster, text: str, confirming: Confirming | None = None) -> None:
        self._cluster = cluster
        self._text = text
        self._sha = sha_of(text)
        self._confirming = confirming

    async def node_of(self, key: str) -> str:
        """Names the node that has a key's slot, as far as is known."""
        await self._cluster.initialize()
        return str(self._cluster.get_node_from_key(key).name)  # type: ignore[union-attr]

    async def many(self, calls: Sequence[Call]) -> list[Any]:
        """Runs the script for each of the calls, whose keys one node has; a reply or an exception for each."""
        replies = await self._run(["EVALSHA", self._sha], calls)
        unknown = [place for place, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:
            for place, reply in zip(
                unknown, await self._run(["EVAL", self._text], [calls[place] for place in unknown]), strict=True
            ):
                replies[place] = reply
        return replies

    async def close(self) -> None:
        """Closes nothing: the connections are the link's."""

    async def _run(self, how: list[str], calls: Sequence[Call]) -> list[Any]:
        commands: list[tuple[Any, ...]] = [(*how, len(keys), *keys, *args) for keys, args in calls]
        if self._confirming is None:
            return await on_node(self._cluster, calls[0][0][0], commands)
        *replies, confirmed = await on_node(self._cluster, calls[0][0][0], [*commands, self._confirming.command])
        await self._confirming.confirm(_gives(confirmed))
        return replies


def sha_of(text: str) -> str:
    """The checksum by which Redis knows a script that it has run."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _gives(reply: Any) -> Callable[[], Any]:
    async def give() -> Any:
        if isinstance(reply, ResponseError):
            raise reply
        return reply

    return give
