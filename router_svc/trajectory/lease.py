"""The lease of this router: while it is renewed, no other router takes its sessions over.

There is one lease for all sessions of a router, not one for each, so that what it costs does not grow with them. It
only decides who may claim; that two routers never write one trajectory is ensured by the fence (see `store`), also when
a router was held up for longer than its lease and does not know it.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable

import structlog

from router_svc.trajectory.store import TrajectoryStore
from rstitch.errors import RstitchError

_log = structlog.get_logger(__name__)


class Lease:
    """Renews the lease three times in `lease_s`, so that one attempt may fail and another be late.

    A router that was restarted has another id: it waits for the lease of the one that it was before like any other.
    """

    def __init__(self, store: TrajectoryStore, lease_s: float) -> None:
        self.router_id = uuid.uuid4().hex
        self.lease_s = lease_s
        self.trouble = ""  # why the last renewal failed, if it did
        self._store = store
        self._resigned = False

    async def renew(self) -> None:
        """Renews the lease now, in one try. Raises RstitchError (UNAVAILABLE)."""
        await self._store.renew(self.router_id, self.lease_s)

    async def keep(self, after_renewal: Callable[[], Awaitable[None]]) -> None:
        """Renews the lease until cancelled or resigned, and calls `after_renewal` whenever the store was reached."""
        while not self._resigned:
            try:
                await self.renew()
                self.trouble = ""
                await after_renewal()
            except RstitchError as error:
                if not self.trouble:  # one line in the log for one outage
                    _log.warning("lease not renewed", error=str(error))
                self.trouble = error.message
            # Whatever became of this renewal: a Redis that is back within the lease finds it renewed in time.
            await asyncio.sleep(self.lease_s / 3)

    async def resign(self) -> None:
        """Ends the lease for good, so that other routers can take the sessions over at once."""
        self._resigned = True
        await self._store.resign(self.router_id)
