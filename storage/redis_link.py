"""The connection to Redis: bounded retries, errors in our words, secrets kept out of them. It knows no trajectory."""

from __future__ import annotations

import asyncio
import builtins
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc
import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    ConnectionError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
)

from rstitch.backoff import Backoff
from rstitch.errors import RstitchError
from storage.packed import packed
from storage.redis_address import RedisAddress

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")
# Errors that end by themselves: Redis restarts, loads its file, or a replica is about to be made the primary.
_PASSING = (ConnectionError, TimeoutError, BusyLoadingError, ReadOnlyError, OSError)
_SOCKET_TIMEOUT_S = 5.0
_POOL: dict[str, Any] = {"max_connections": 64, "timeout": 20.0, "socket_timeout": _SOCKET_TIMEOUT_S}
_CONNECTION: dict[str, Any] = {
    "socket_connect_timeout": _SOCKET_TIMEOUT_S,
    "retry": Retry(NoBackoff(), 0),  # ours below is the only one
    "protocol": 2,
}


class RedisLink:
    """A pool of connections, and calls that are made again for `patience_s` while Redis is away."""

    def __init__(self, address: RedisAddress, patience_s: float) -> None:
        self._patience_s = patience_s
        self._away = False
        self._redis_address = address
        self.redis = Redis.from_pool(address.pool(BlockingConnectionPool, **_POOL, **_CONNECTION))
        self.address = address.shown

    async def close(self) -> None:
        await self.redis.aclose()

    def script(self, text: str) -> Script:
        """A Lua script with a connection of its own, for one that is called all the time; the caller closes it."""
        return Script(self._redis_address, text)

    async def command(self, *command: Any) -> Any:
        return await self.call(lambda: self.redis.execute_command(*command))  # type: ignore[no-untyped-call]

    async def call(self, call: Callable[[], Awaitable[_T]], patience_s: float | None = None) -> _T:
        """Runs `call`, and runs it again while Redis cannot be reached: Redis may do it twice.

        Raises: RstitchError (UNAVAILABLE): REDIS_UNAVAILABLE after the patience, REDIS_REFUSED at once.
        """
        # Most calls succeed at once, and there is one for each chunk: what only a retry needs is made for a retry.
        backoff: Backoff | None = None
        while True:
            try:
                result = await call()
            except _PASSING as error:
                patience_s = self._patience_s if patience_s is None else patience_s
                backoff = backoff or Backoff(first_s=0.05, max_s=1.0, patience_s=patience_s)
                delay_s = backoff.next_s()
                if delay_s is None:
                    raise unavailable() from error
                if not self._away:  # one line in the log for one outage, however many calls wait
                    _log.warning("waiting for redis", url=self.address, error=str(error))
                self._away = True
                await asyncio.sleep(delay_s)
            except RedisError as error:
                _log.error("redis refused a command", url=self.address, error=str(error))
                raise _error("REDIS_REFUSED", "refused a command") from error
            else:
                if self._away:
                    _log.info("redis is back", url=self.address)
                self._away = False
                return result


class Script:
    """A Lua script on a connection of its own, for one call at a time. `RedisLink.script` makes it.

    What a pool and a general client do for each call takes longer than the call itself. A call is made again at once if
    the connection has died since the last one, so Redis may run the script twice for it.
    """

    def __init__(self, address: RedisAddress, text: str) -> None:
        # Without the socket's own timeout, which makes a task for each write; `_call` has one timeout for all of it.
        self._connection: Any = address.pool(**_CONNECTION).make_connection()  # type: ignore[no-untyped-call]
        self._text = text
        self._sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Runs the script and returns its reply. Raises what redis raises."""
        # A connection that was open may have been closed by the other side long ago, which only a write shows. A new
        # one that fails is an outage, and that is for `RedisLink.call` to wait out.
        if self._connection.is_connected:
            try:
                return await self._call(keys, args)
            except (ConnectionError, OSError):
                await self.close()
        return await self._call(keys, args)

    async def close(self) -> None:
        await self._connection.disconnect()

    async def _call(self, keys: Sequence[str], args: Sequence[Any]) -> Any:
        try:
            async with asyncio.timeout(_SOCKET_TIMEOUT_S):
                return await self._run(keys, args)
        except builtins.TimeoutError:
            # The reply may still come, and must not be taken for that to the next call.
            await self.close()
            raise TimeoutError(f"no answer within {_SOCKET_TIMEOUT_S:g} s") from None

    async def _run(self, keys: Sequence[str], args: Sequence[Any]) -> Any:
        # Redis keeps a script by its checksum until it restarts, so that its text is sent once.
        try:
            return await self._ask("EVALSHA", self._sha, len(keys), *keys, *args)
        except NoScriptError:
            return await self._ask("EVAL", self._text, len(keys), *keys, *args)

    async def _ask(self, *command: Any) -> Any:
        await self._connection.send_packed_command(packed(command))
        return await self._connection.read_response()


def unavailable() -> RstitchError:
    """UNAVAILABLE: Redis has been away for the patience of a call, which it may have done."""
    return _error("REDIS_UNAVAILABLE", "does not answer")


def _error(reason: str, what: str) -> RstitchError:
    """Without Redis' address and words, which are in the log."""
    remedy = "Start it, give it room, or correct --redis (RSTITCH_REDIS); then try again."
    code = grpc.StatusCode.UNAVAILABLE
    return RstitchError(code, reason, f"the router's Redis {what}.", remedy=remedy, retry_after_s=1.0)


def script_error(message: str) -> RedisError:
    """The exception for an error that a script caught and returned as text.

    A script that wrote to a replica can be tried again once the primary is back, as `_PASSING` says.
    """
    return ReadOnlyError(message) if "READONLY" in message else ResponseError(message)
