"""The errors that more than one place raises: reason, words and remedy once each."""

from __future__ import annotations

import grpc

from rstitch.errors import RstitchError


def unknown_session(session_id: str) -> RstitchError:
    """NOT_FOUND."""
    return RstitchError(
        grpc.StatusCode.NOT_FOUND,
        "UNKNOWN_SESSION",
        f"there is no session {session_id}; it may have been forgotten.",
        field="session_id",
        remedy="Look it up with ListTrajectories, or ask anew.",
    )


def session_running(session_id: str) -> RstitchError:
    """FAILED_PRECONDITION: one answer at a time."""
    return RstitchError(
        grpc.StatusCode.FAILED_PRECONDITION,
        "SESSION_RUNNING",
        f"an answer is being written in session {session_id}.",
        field="session_id",
        remedy="Re-attach to it with resume_from, or wait until it is finished.",
        metadata={"session_id": session_id},
    )


def router_draining() -> RstitchError:
    """UNAVAILABLE, but not for long."""
    return RstitchError(
        grpc.StatusCode.UNAVAILABLE,
        "ROUTER_DRAINING",
        "this router is being stopped.",
        remedy="Re-attach with resume_from once it or another one serves.",
        retry_after_s=1.0,
    )


def owned_elsewhere(session_id: str, lease_s: float) -> RstitchError:
    """UNAVAILABLE here, while another router lives and writes."""
    return RstitchError(
        grpc.StatusCode.UNAVAILABLE,
        "OWNED_ELSEWHERE",
        f"another router is writing session {session_id}.",
        field="session_id",
        remedy="Re-attach there; should it be gone, try again here.",
        metadata={"session_id": session_id},
        retry_after_s=lease_s,
    )


def too_many_answers(num_running: int, max_running: int) -> RstitchError:
    """RESOURCE_EXHAUSTED."""
    return RstitchError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "TOO_MANY_ANSWERS",
        f"{num_running} answers are being written, the limit is {max_running}.",
        remedy="Try again later, or raise --max-running (RSTITCH_MAX_RUNNING).",
        retry_after_s=1.0,
    )
