"""Tries to take a session over until it is ours, and leaves it to another router that lives. It knows no store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from router_svc.answers.log import AnswerLog
from router_svc.trajectory.session_names import facts_of
from router_svc.trajectory.store import OwnedElsewhere
from rstitch.errors import RstitchError

_log = structlog.get_logger(__name__)
_OWNER_POLL_S = 0.1

# Tries once; told whether another router was found writing the session in a try before.
Attempt = Callable[[bool], Awaitable[AnswerLog | OwnedElsewhere | None]]


async def until_ours(name: str, attempt: Attempt, refusal: RstitchError) -> AnswerLog:
    """Tries until the session of that name is ours. Raises `refusal` if another router lives and writes it.

    At most one router may write. Whoever claims a session raises its epoch, and every append names an epoch, so a
    router that was only slow is fenced off by Redis itself. To leave a living one in peace we look at its lease:

        left_ms falls from look to look    nobody renews it: the router is gone, and at 0 the claim succeeds
        left_ms has grown                  it was renewed in between: that router lives
    """
    lease_ms: int | None = None
    while True:
        match await attempt(lease_ms is not None):
            case AnswerLog() as log:
                return log
            case OwnedElsewhere(left_ms):
                if lease_ms is not None and left_ms > lease_ms:
                    raise refusal
                if lease_ms is None:
                    _log.info("waiting for the lease of another router", lease_ms=left_ms, **facts_of(name))
                lease_ms = left_ms
                await asyncio.sleep(min(_OWNER_POLL_S, left_ms / 1000 + 0.001))
            case None:
                _log.debug("changed meanwhile, reading again", **facts_of(name))
