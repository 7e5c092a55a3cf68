"""Waits until a session is free of a router that is gone, or finds out that its router lives.

At most one router may write. Whoever claims a session raises its epoch, and every append names an epoch, so a router
that was only slow is fenced off by Redis itself. To leave a living one in peace its lease is looked at:

    left_ms falls from look to look    nobody renews it: the router is gone, and at 0 the claim succeeds
    left_ms has grown                  it was renewed in between: that router lives
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from router_svc.answers import refusals
from router_svc.trajectory.cancelling import Cancelling
from router_svc.trajectory.session_names import facts_of
from router_svc.trajectory.store import Owned, OwnedElsewhere
from router_svc.trajectory.types import Ended
from rstitch.errors import RstitchError

_log = structlog.get_logger(__name__)
_OWNER_POLL_S = 0.1
_LOOK_S = 0.02
# A router that was told to end an answer may take so long to store the rest of it.
_STORING_S = 3.0


class OwnersLease:
    """The lease of the router that writes a session, as it is seen from another one."""

    def __init__(self, name: str) -> None:
        self.was_seen = False
        self._name = name
        self._left_ms = 0

    async def lives(self, owned: OwnedElsewhere) -> bool:
        """Says whether the lease was renewed since the last look; if not, waits a moment before the next one."""
        if self.was_seen and owned.lease_ms > self._left_ms:
            return True
        if not self.was_seen:
            facts = facts_of(self._name)
            _log.info("waiting for the lease of another router", lease_ms=owned.lease_ms, **facts)
        self.was_seen, self._left_ms = True, owned.lease_ms
        await asyncio.sleep(min(_OWNER_POLL_S, owned.lease_ms / 1000 + 0.001))
        return False


async def own(
    name: str,
    claim: Callable[[], Awaitable[Owned | OwnedElsewhere | None]],
    refusal: RstitchError,
    *,
    must_be_as_read: bool,
) -> Owned | None:
    """Claims a session as it was read. None: it has changed since then, and is to be read again.

    Raises `refusal` if another router lives and writes it, or has added to it or ended it while we waited: what was
    asked for was asked while an answer was being written. So for any change if it `must_be_as_read`.
    """
    lease = OwnersLease(name)
    while isinstance(outcome := await claim(), OwnedElsewhere):
        if await lease.lives(outcome):
            raise refusal
    if outcome is None and (lease.was_seen or must_be_as_read):
        raise refusal
    return outcome


async def cancel_elsewhere(cancelling: Cancelling, name: str, lease_s: float) -> Ended:
    """Ends an answer that this router does not write, and waits until nobody does.

    Its router finds out at its next append, at the latest when it renews its lease. Raises RstitchError (NOT_FOUND;
    UNAVAILABLE if that router lives and does not do so).
    """
    until = time.monotonic() + 2 * lease_s + _STORING_S
    epoch: int | None = None
    while True:
        outcome = await cancelling.mark(name, epoch)
        if isinstance(outcome, Ended):
            return outcome
        if outcome is None:
            raise refusals.unknown_session(name)
        if time.monotonic() > until:
            raise refusals.owned_elsewhere(name, lease_s)
        epoch = outcome
        await asyncio.sleep(_LOOK_S)
