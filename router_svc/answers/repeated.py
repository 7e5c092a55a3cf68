"""Questions that come again under their request id: they are the same question, and have the same answer.

The id of the last answer's question is in its settings, so that any router finds it. What was asked before that is not
known any more.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from grpc import StatusCode

from router_svc.answers import refusals
from router_svc.answers.request import Question, Reattach, check_within
from router_svc.policies.answer_settings import AnswerSettings
from router_svc.trajectory.session_names import id_in
from router_svc.trajectory.store import TrajectoryStore
from router_svc.trajectory.types import Header, Trajectory
from rstitch.errors import RstitchError

_ASKED_BEFORE = "ASKED_BEFORE"
# What may be in the way of a question that is already being answered.
_IN_THE_WAY = {"SESSION_EXISTS", "SESSION_RUNNING", "TOO_MANY_ANSWERS", "QUOTA_EXCEEDED"}


def asked_before(name: str) -> RstitchError:
    """ABORTED, which no caller is told: it gets the answer."""
    what = f"the question was asked before, and is the last one of session {id_in(name)}."
    return RstitchError(StatusCode.ABORTED, _ASKED_BEFORE, what, metadata={"session_id": id_in(name)})


@dataclass(frozen=True, slots=True)
class Before:
    """What a session had before a question, if it had anything, and how long it took to read that."""

    trajectory: Trajectory | None
    read_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Repeats:
    """Tells questions that came before from others; `written` says of a session what is written here in it."""

    store: TrajectoryStore
    written: Callable[[str], AnswerSettings | None]
    clock: Callable[[], float]

    async def before(self, name: str, question: Question) -> Before:
        """What a question comes behind. Raises RstitchError (`asked_before`) if it is there already."""
        if question.only_if_new or not question.session_id:
            return Before(None)
        asked = self.clock()
        trajectory = await self.store.trajectory(name)
        if trajectory is not None and _is_last(question.request_id, trajectory.header):
            raise asked_before(name)
        return Before(trajectory, self.clock() - asked)

    async def was_asked(self, name: str, question: Question, refusal: RstitchError) -> bool:
        """Whether what refuses a question is that it came before, to this router or another."""
        if not question.request_id or refusal.reason not in _IN_THE_WAY:
            return refusal.reason == _ASKED_BEFORE
        if (here := self.written(name)) is not None:
            return here.request_id == question.request_id
        with suppress(RstitchError):  # what it was refused for stands
            header = await self.store.header(name)
            return header is not None and _is_last(question.request_id, header)
        return False


def check_question(asked: Reattach, name: str, settings: AnswerSettings) -> None:
    """Raises RstitchError (FAILED_PRECONDITION) if an answer is not to the question that it must be to."""
    if asked.request_id not in ("", settings.request_id):
        raise refusals.answer_over(name)


def check_answer(asked: Reattach, name: str, header: Header) -> None:
    """Raises RstitchError if the last answer of a session is not the one that is wanted, or has not come so far."""
    if asked.request_id:
        check_question(asked, name, AnswerSettings.from_json(header.settings))
    check_within(asked, header.length)


def _is_last(request_id: str, header: Header) -> bool:
    """Whether a session's last answer was begun with this id; none is that of no question."""
    return bool(request_id) and AnswerSettings.from_json(header.settings).request_id == request_id
