"""The sign of life of this router: while it is renewed, no other router takes its sessions over."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable

import structlog

from router_svc.trajectory.store import TrajectoryStore
from rstitch.errors import RstitchError

_log = structlog.get_logger(__name__)


class Lease:
    """Renewed three times per `lease_s`. A restarted router is another one."""

    def __init__(self, store: TrajectoryStore, lease_s: float) -> None:
        self.router_id = uuid.uuid4().hex
        self.lease_s = lease_s
        self.trouble = ""  # why it could not be renewed the last time
        self._store = store
        self._resigned = False

    async def renew(self) -> None:
        """Once. Raises RstitchError (UNAVAILABLE)."""
        await self._store.renew(self.router_id, self.lease_s)

    async def keep(self, after_renewal: Callable[[], Awaitable[None]]) -> None:
        """Renews until cancelled or resigned; `after_renewal` runs while the store can be reached."""
        while not self._resigned:
            try:
                await self.renew()
                self.trouble = ""
                await after_renewal()
            except RstitchError as error:
                if not self.trouble:
                    _log.warning("lease not renewed", error=str(error))
                self.trouble = error.message
            await asyncio.sleep(self.lease_s / 3)

    async def resign(self) -> None:
        """Gives the sessions free at once, for good."""
        self._resigned = True
        await self._store.resign(self.router_id)
