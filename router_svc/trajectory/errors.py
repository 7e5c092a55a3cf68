"""What can be wrong between a router and the trajectory that it writes: reason, words and remedy once each.

Each gets a session's name, and tells its id.
"""

from __future__ import annotations

from grpc import StatusCode

from router_svc.trajectory.session_names import id_in
from rstitch.errors import RstitchError


class Fenced(RstitchError):
    """Another router owns the trajectory now, or it was deleted: this router must write nothing more into it."""


class Behind(Exception):
    """The store has only `length` tokens left of a trajectory, as a Redis may that crashed before it saved its file."""

    def __init__(self, length: int) -> None:
        super().__init__(f"the store has {length} tokens")
        self.length = length


def taken_over(name: str) -> Fenced:
    """ABORTED: another router claimed the session after this one had."""
    session_id = id_in(name)
    what, remedy = f"another router took session {session_id} over.", "Re-attach with resume_from."
    return Fenced(StatusCode.ABORTED, "TAKEN_OVER", what, remedy=remedy, metadata={"session_id": session_id})


def deleted(name: str, error: type[RstitchError] = RstitchError) -> RstitchError:
    """ABORTED: somebody deleted the session, through this router, or through another one (then `Fenced`)."""
    # Whoever deleted it here stops the answer cleanly, as any interruption does. Only a router that finds it gone is
    # fenced: it must not even try to store what is left.
    session_id = id_in(name)
    what = f"session {session_id} was deleted while it was being written."
    remedy = "Ask again under a new session."
    return error(StatusCode.ABORTED, "DELETED", what, remedy=remedy, metadata={"session_id": session_id})


def lost(name: str, num_left: int, length: int, how_to_keep: str) -> RstitchError:
    """DATA_LOSS: tokens are missing that nobody can write again."""
    session_id = id_in(name)
    what = f"Redis has {num_left} of the {length} tokens of session {session_id}."
    remedy = f"Ask again under a new session; {how_to_keep}."
    metadata = {"session_id": session_id}
    return RstitchError(StatusCode.DATA_LOSS, "TRAJECTORY_LOST", what, remedy=remedy, metadata=metadata)
