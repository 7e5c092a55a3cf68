"""The errors that would hide the code where they are raised: reason, words and remedy once each.

Those of a session get its name, and tell its id.
"""

from __future__ import annotations

from grpc import StatusCode

from router_svc.trajectory.session_names import id_in
from router_svc.trajectory.types import State
from rstitch.errors import RstitchError


def unknown_session(name: str) -> RstitchError:
    """NOT_FOUND: its tenant never began it, or it was deleted, or its time has run out."""
    what = f"there is no session {id_in(name)}; it may have been forgotten."
    remedy = "Look it up with ListTrajectories, or ask anew."
    return RstitchError(StatusCode.NOT_FOUND, "UNKNOWN_SESSION", what, field="session_id", remedy=remedy)


def session_running(name: str) -> RstitchError:
    """FAILED_PRECONDITION: one answer at a time."""
    session_id = id_in(name)
    return RstitchError(
        StatusCode.FAILED_PRECONDITION,
        "SESSION_RUNNING",
        f"an answer is being written in session {session_id}.",
        field="session_id",
        remedy="Re-attach to it with resume_from, or wait until it is finished.",
        metadata={"session_id": session_id},
    )


def session_exists(name: str) -> RstitchError:
    """ALREADY_EXISTS: it was to be new."""
    session_id = id_in(name)
    return RstitchError(
        StatusCode.ALREADY_EXISTS,
        "SESSION_EXISTS",
        f"there is a session {session_id}.",
        field="session_id",
        remedy="Read its answer with resume_from, or leave out only_if_new to go on with it.",
        metadata={"session_id": session_id},
    )


def taken(name: str, *, only_if_new: bool) -> RstitchError:
    """Of a question in a session that is not to be had as it was read."""
    return session_exists(name) if only_if_new else session_running(name)


def not_finished(name: str, state: State) -> RstitchError:
    """FAILED_PRECONDITION: what was asked for needs a whole answer."""
    session_id = id_in(name)
    how = "is being written" if state is State.RUNNING else "was interrupted"
    return RstitchError(
        StatusCode.FAILED_PRECONDITION,
        "ANSWER_NOT_FINISHED",
        f"the last answer of session {session_id} {how}.",
        field="session_id",
        remedy="Re-attach to it with resume_from and read it to its end, then try again.",
        metadata={"session_id": session_id},
    )


def owned_elsewhere(name: str, lease_s: float) -> RstitchError:
    """UNAVAILABLE: another router lives, writes, and does not end what it writes."""
    session_id = id_in(name)
    return RstitchError(
        StatusCode.UNAVAILABLE,
        "OWNED_ELSEWHERE",
        f"another router is writing session {session_id}.",
        field="session_id",
        remedy="Try again; should that router be gone, the answer ends then.",
        metadata={"session_id": session_id},
        retry_after_s=lease_s,
    )


def router_gone(name: str) -> RstitchError:
    """ABORTED, for who reads another router's answer: it is not being written any more, and any router may go on."""
    session_id = id_in(name)
    what = f"the router that wrote session {session_id} is gone, or stopped before the answer was whole."
    remedy, metadata = "Re-attach with resume_from; the answer goes on then.", {"session_id": session_id}
    return RstitchError(StatusCode.ABORTED, "ROUTER_GONE", what, remedy=remedy, metadata=metadata)


def answer_over(name: str) -> RstitchError:
    """FAILED_PRECONDITION, for who reads another router's answer: the next one began before its end was seen."""
    session_id = id_in(name)
    what = f"session {session_id} went on to its next answer."
    remedy, metadata = "GetTrajectory has all of it.", {"session_id": session_id}
    return RstitchError(StatusCode.FAILED_PRECONDITION, "ANSWER_OVER", what, remedy=remedy, metadata=metadata)


def router_draining() -> RstitchError:
    """UNAVAILABLE, but not for long."""
    what, remedy = "this router is being stopped.", "Re-attach with resume_from once it or another one serves."
    return RstitchError(StatusCode.UNAVAILABLE, "ROUTER_DRAINING", what, remedy=remedy, retry_after_s=1.0)


def too_many_answers(num_running: int, max_running: int, doing: str = "written") -> RstitchError:
    """RESOURCE_EXHAUSTED: a limit of this router, not of the machine."""
    what = f"{num_running} answers are being {doing}, the limit is {max_running}."
    remedy = "Try again later, or raise --max-running (RSTITCH_MAX_RUNNING)."
    return RstitchError(StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_ANSWERS", what, remedy=remedy, retry_after_s=1.0)


def abandoned(grace_s: float) -> RstitchError:
    """ABORTED: an answer is written for its readers."""
    what = f"nobody read the answer for {grace_s:g} s."
    return RstitchError(StatusCode.ABORTED, "ABANDONED", what, remedy="Re-attach with resume_from.")


def left() -> RstitchError:
    """ABORTED: likewise, of an answer that does not wait for readers to come back."""
    what = "the last reader of the answer left, and it was asked to stop then."
    return RstitchError(StatusCode.ABORTED, "ABANDONED", what, remedy="Re-attach with resume_from.")


def cancelled(name: str) -> RstitchError:
    """CANCELLED: somebody wanted it to end. Clients do not go on by themselves."""
    what, remedy = "the answer was cancelled.", "Go on with it by resume_from, or ask something new."
    metadata = {"session_id": id_in(name)}
    return RstitchError(StatusCode.CANCELLED, "CANCELLED", what, remedy=remedy, metadata=metadata)
