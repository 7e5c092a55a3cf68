"""The connection to Redis: bounded retries, errors in our words, secrets kept out of them. It knows no trajectory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
import structlog
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import RedisError

from rstitch.backoff import Backoff
from rstitch.errors import RstitchError
from storage.clients import client_of, close_pool
from storage.cluster import Command, at_once
from storage.confirming import Confirming
from storage.passing import PASSING, is_demoted, is_passing
from storage.redis_address import RedisAddress
from storage.scripts import ClusterScript, Script

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")


class RedisLink:
    """A pool of connections, and calls that are made again for `patience_s` while Redis is away.

    Attributes:
        redis: the client; of a cluster for single keys and those of one slot only.
        address: as logs may show it.
    """

    def __init__(self, address: RedisAddress, patience_s: float) -> None:
        self._patience_s = patience_s
        self._away = False
        self._num_waiting = 0
        self._redis_address = address
        self.redis: Any = client_of(address)
        self.address = address.shown

    @property
    def cluster(self) -> RedisCluster | None:
        """The client if it is one of a cluster."""
        return self.redis if isinstance(self.redis, RedisCluster) else None

    async def close(self) -> None:
        await self.redis.aclose()
        if self.cluster is None:
            await close_pool(self.redis.connection_pool)

    def script(self, text: str, confirming: Confirming | None = None) -> Any:
        """A `Script` that is called all the time, in a cluster a `ClusterScript`; the caller closes it.

        With `confirming` each call waits until replicas have what it wrote.
        """
        if self.cluster is not None:
            return ClusterScript(self.cluster, text, confirming)
        return Script(self._redis_address, text, confirming)

    async def command(self, *command: Any) -> Any:
        return await self.call(lambda: self.redis.execute_command(*command))

    async def at_once(self, key: str, *commands: Command) -> list[Any]:
        """Runs commands as one step, on keys of the slot of `key`. Raises as `call`."""

        async def run() -> list[Any]:
            if self.cluster is not None:
                return await at_once(self.cluster, key, commands)
            async with self.redis.pipeline(transaction=True) as pipe:
                for command in commands:
                    pipe.execute_command(*command)
                replies: list[Any] = await pipe.execute()
                return replies

        return await self.call(run)

    async def together(self, *commands: Command) -> list[Any]:
        """Runs commands in one round trip, in a cluster one to each node that is asked. Raises as `call`."""

        async def run() -> list[Any]:
            async with self.redis.pipeline(transaction=False) as pipe:
                for command in commands:
                    pipe.execute_command(*command)
                replies: list[Any] = await pipe.execute()
                return replies

        return await self.call(run)

    async def call(self, call: Callable[[], Awaitable[_T]], patience_s: float | None = None) -> _T:
        """Runs `call`, and runs it again while Redis cannot be reached: Redis may do it twice.

        Raises: RstitchError (UNAVAILABLE): REDIS_UNAVAILABLE after the patience, REDIS_REFUSED at once.
        """
        # Most calls succeed at once, and there is one for each chunk: what only a retry needs is made for a retry.
        backoff: Backoff | None = None
        # The library sends in `asyncio.wait_for`, which in Python 3.11 forgets a cancellation that comes just as it
        # ends, well or not: a task that calls again and again would go on for ever.
        task = asyncio.current_task()
        num_cancelled = task.cancelling() if task is not None else 0
        while True:
            try:
                result = await call()
            except (RedisError, *PASSING) as error:
                if task is not None and task.cancelling() > num_cancelled:
                    raise asyncio.CancelledError from error
                if not is_passing(error):
                    _log.error("redis refused a command", url=self.address, error=str(error))
                    raise _error("REDIS_REFUSED", "refused a command") from error
                patience_s = self._patience_s if patience_s is None else patience_s
                backoff = backoff or Backoff(first_s=0.05, max_s=1.0, patience_s=patience_s)
                delay_s = backoff.next_s()
                if is_demoted(error):
                    await self._leave_replica()
                if delay_s is None:
                    raise unavailable() from error
                if not self._away:  # one line in the log for one outage, however many calls wait
                    _log.warning("waiting for redis", url=self.address, error=str(error))
                self._away = True
                await self._wait(delay_s)
            else:
                # In a cluster others may be asked well meanwhile: it is back for those who waited.
                if self._away and (backoff is not None or not self._num_waiting):
                    _log.info("redis is back", url=self.address)
                    self._away = False
                if task is not None and task.cancelling() > num_cancelled:
                    raise asyncio.CancelledError
                return result

    async def _wait(self, delay_s: float) -> None:
        self._num_waiting += 1
        try:
            await asyncio.sleep(delay_s)
        finally:
            self._num_waiting -= 1

    async def _leave_replica(self) -> None:
        """Lets connections ask the Sentinels anew: a script that meets a replica says so in words of its own."""
        if self.cluster is None and isinstance(self.redis.connection_pool, SentinelConnectionPool):
            await self.redis.connection_pool.disconnect(inuse_connections=False)


def unavailable() -> RstitchError:
    """UNAVAILABLE: Redis has been away for the patience of a call, which it may have done."""
    return _error("REDIS_UNAVAILABLE", "does not answer")


def _error(reason: str, what: str) -> RstitchError:
    """Without Redis' address and words, which are in the log."""
    remedy = "Start it, give it room, or correct --redis (RSTITCH_REDIS); then try again."
    code = grpc.StatusCode.UNAVAILABLE
    return RstitchError(code, reason, f"the router's Redis {what}.", remedy=remedy, retry_after_s=1.0)
