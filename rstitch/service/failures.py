"""What a caller is told of a bug of ours: nothing but where the log has it."""

from __future__ import annotations

import secrets
from typing import Any

import grpc
import structlog

from rstitch.errors import RstitchError

_log = structlog.get_logger(__name__)


def internal(error: Exception, event: str, **facts: Any) -> RstitchError:
    """Logs an error that is a bug of ours, as `event`; returns what a caller is told of it: an id that is in the log.

    Not even its type's name: whatever a stranger learns of a fault helps to use it.
    """
    error_id = secrets.token_hex(8)
    _log.error(event, exc_info=error, error_id=error_id, **facts)
    session_id = structlog.contextvars.get_contextvars().get("session_id")
    return RstitchError(
        grpc.StatusCode.INTERNAL,
        "INTERNAL",
        "the service failed.",
        remedy=f"This is a bug; the service's log has the details under error_id {error_id}.",
        metadata={"error_id": error_id, **({"session_id": session_id} if session_id else {})},
    )
