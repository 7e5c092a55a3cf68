"""The sending side of a call to a worker, whether one session's or many sessions'. It knows no message."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import structlog

from rstitch.errors import RstitchError

_log = structlog.get_logger(__name__)


async def send_all(call: Any, outgoing: asyncio.Queue[Any]) -> RstitchError | None:
    """Sends what comes until None does; returns why it gave up, if that is to be told.

    A call that is over needs no words: whoever reads it is told why.
    """
    try:
        while (message := await outgoing.get()) is not None:
            await call.write(message)
        await call.done_writing()
    except (grpc.RpcError, asyncio.InvalidStateError):
        return None
    except Exception as exc:  # noqa: BLE001 - whatever it is: a run must never wait for ever
        error = broken("a run could not be sent", exc)
        call.cancel()
        return error
    return None


def broken(what: str, error: Exception) -> RstitchError:
    """INTERNAL (PROTOCOL): router and worker do not understand each other; the log says more than a caller is told."""
    _log.error(what, exc_info=error)
    remedy = "Run workers and router of one version; the router's log has more."
    return RstitchError(grpc.StatusCode.INTERNAL, "PROTOCOL", f"{what}.", remedy=remedy)
