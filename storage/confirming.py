"""Whether replicas have what was written, by Redis' own `WAIT`: a primary that dies then takes nothing with it.

What they do not confirm in time is counted and goes on: Redis has no way to take it back. It writes nothing itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from redis.exceptions import ResponseError

from rstitch.errors import invalid

_log = structlog.get_logger(__name__)
_DEFAULT_MS = 100
# Below the time that a whole call has, as Redis says nothing while it waits.
_MAX_MS = 3000


class Confirming:
    """Waits behind each call until `num` replicas have it, `timeout_ms` at most.

    Attributes:
        num_unconfirmed: calls that too few replicas had in time.
    """

    def __init__(self, num: int, timeout_ms: int) -> None:
        self.num_unconfirmed = 0
        self.command = ("WAIT", num, timeout_ms)
        self._num = num
        self._is_behind = False

    @classmethod
    def parse(cls, text: str) -> Confirming | None:
        """Reads N or N:MS as `--redis-wait` has it; "" or 0 is None. Raises RstitchError (INVALID_ARGUMENT)."""
        num, colon, timeout_ms = text.partition(":")
        if (text and not num.isdecimal()) or (colon and not timeout_ms.isdecimal()) or len(text) > 16:
            raise invalid("--redis-wait", "it is no number of replicas.", "Write N or N:MS, such as 1:100.")
        made = int(num or 0), int(timeout_ms or _DEFAULT_MS)
        if not 1 <= made[1] <= _MAX_MS:
            what = f"{made[1]} ms is no time to wait."
            raise invalid("--redis-wait", what, f"Wait from 1 to {_MAX_MS} ms.")
        return cls(*made) if made[0] else None

    async def confirm(self, read: Callable[[], Awaitable[Any]]) -> None:
        """Takes the reply to `command`, which came behind a call."""
        try:
            num = int(await read())
        except ResponseError as error:  # the primary became a replica meanwhile, or this user may not ask
            num, why = 0, str(error)
        else:
            why = f"{num} of {self._num} replicas had it in time"
        if num < self._num:
            self.num_unconfirmed += 1
            if not self._is_behind:  # one line in the log for one outage
                _log.warning("replicas do not confirm what is written", why=why)
        elif self._is_behind:
            _log.info("replicas confirm again")
        self._is_behind = num < self._num
