"""Answers that other routers write, for readers of this one: read from the store as they grow.

It takes no session over: where nobody writes one any more its readers are told to re-attach, which does.
"""

from __future__ import annotations

import asyncio

import structlog

from router_svc.answers import refusals
from router_svc.answers.events import context_of
from router_svc.answers.log import AnswerLog, chunks_of_answer
from router_svc.answers.preparation import check_same
from router_svc.policies.answer_settings import AnswerSettings
from router_svc.text.vocabularies import Vocabularies
from router_svc.trajectory.errors import deleted, lost
from router_svc.trajectory.session_names import facts_of
from router_svc.trajectory.tailing import Tail, Tailing
from router_svc.trajectory.types import Chunk, Finished, Header, State, Trajectory
from rstitch.errors import RstitchError
from rstitch.service.failures import internal

_log = structlog.get_logger(__name__)
# Between two looks: readers get tokens in groups about so far apart, less often while none come.
_LOOK_S = 0.05
_LONGEST_S = 0.4
_HOW_TO_KEEP = "let Redis write its file at every change"


class Following:
    """The answers that are followed, each once however many read it, and no longer than somebody does."""

    def __init__(self, tailing: Tailing, max_answers: int) -> None:
        self._tailing = tailing
        self._max_answers = max_answers
        self._followed: dict[str, tuple[AnswerLog, asyncio.Task[None], Header]] = {}  # by name

    def __contains__(self, name: str) -> bool:
        return name in self._followed

    def find(self, name: str, header: Header) -> AnswerLog | None:
        """Gives the last answer of a session, by its header as it is now, if that is the one that is followed."""
        log, _, followed = self._followed.get(name, (None, None, None))
        return log if followed is not None and _why_another(followed, header, name) is None else None

    def begin(self, name: str, trajectory: Trajectory, vocabularies: Vocabularies) -> AnswerLog:
        """Follows the last answer of a session from what its trajectory had of it.

        Raises RstitchError if too many are followed, or it cannot be read by these models.
        """
        if name in self._followed:  # the answer before it, whose end was not seen yet
            self._stop(name, refusals.answer_over(name))
        if len(self._followed) >= self._max_answers:
            raise refusals.too_many_answers(len(self._followed), self._max_answers, "followed")
        _log.info("following another router's answer", **facts_of(name))
        log = kept_answer(trajectory, vocabularies)
        task = asyncio.create_task(self._follow(name, log, trajectory.header), name=f"follow-{name}")
        self._followed[name] = log, task, trajectory.header
        # Whoever came in the same moment is told to come again.
        log.on_deserted = lambda: self._stop(name, refusals.left())
        return log

    async def drain(self) -> None:
        """Ends all of them: this router is being stopped."""
        tasks = {task for _, task, _ in self._followed.values()}
        for name in list(self._followed):
            self._stop(name, refusals.router_draining())
        if tasks:
            await asyncio.wait(tasks)

    def _stop(self, name: str, outcome: RstitchError) -> None:
        log, task, _ = self._followed.pop(name)
        log.on_deserted = None
        task.cancel()
        log.end(outcome)

    async def _follow(self, name: str, log: AnswerLog, header: Header) -> None:
        try:
            outcome: Finished | RstitchError = await self._to_its_end(name, log, header)
        except RstitchError as error:
            outcome = error
        except Exception as error:  # noqa: BLE001 - a bug of ours must end as the readers' error, not as silence
            outcome = internal(error, "following failed")
        del self._followed[name]
        log.on_deserted = None
        log.end(outcome)

    async def _to_its_end(self, name: str, log: AnswerLog, header: Header) -> Finished | RstitchError:
        cursor, wait_s = b"", _LOOK_S
        while True:
            tail = await self._tailing.look(name, cursor)
            if tail is None:
                return deleted(name)
            if (another := _why_another(header, tail.header, name)) is not None:
                return another
            cursor = tail.cursor
            if fresh := _fresh(tail, log, name):
                log.show(fresh)
            if tail.chunks and log.length < tail.header.length:
                continue  # one look gives so much at most
            if tail.header.state is not State.RUNNING:
                return _outcome(tail, log, name)
            if not await self._tailing.lease_ms(tail.header.owner):
                return refusals.router_gone(name)
            wait_s = _LOOK_S if fresh else min(2 * wait_s, _LONGEST_S)
            await asyncio.sleep(wait_s)


def kept_answer(trajectory: Trajectory, vocabularies: Vocabularies) -> AnswerLog:
    """The last answer as it is stored, with its outcome if it is finished.

    Raises RstitchError (FAILED_PRECONDITION) if it is kept in other ids than the two models now have.
    """
    header = trajectory.header
    settings, tokenizers = AnswerSettings.from_json(header.settings), vocabularies.answer_tokenizers
    check_same(settings, vocabularies)
    chunks = chunks_of_answer(trajectory.chunks, settings.start)
    context = context_of(trajectory.chunks, settings.start, tokenizers)
    return AnswerLog(header.session_id, settings, context, tokenizers, chunks, header.finished)


def _why_another(header: Header, now: Header, name: str) -> RstitchError | None:
    """Why a session's last answer is now another one than it was; None if it is not.

    Its epoch does not say: the same router may begin the next one under the same, and a deletion begins them anew.
    """
    if now.created_ms != header.created_ms:
        return deleted(name)
    return refusals.answer_over(name) if now.settings != header.settings else None


def _fresh(tail: Tail, log: AnswerLog, name: str) -> list[Chunk]:
    """What readers have not seen: a Redis that lost the end of a trajectory is told it again, cut elsewhere."""
    length, found = log.length, []
    for chunk in chunks_of_answer(tail.chunks, log.settings.start):
        if chunk.position > length:
            raise lost(name, length, chunk.position, _HOW_TO_KEEP)
        if chunk.end > length or (not chunk.tokens and chunk.position >= length):
            found.append(chunk.since(length))
            length = max(length, chunk.end)
    return found


def _outcome(tail: Tail, log: AnswerLog, name: str) -> Finished | RstitchError:
    if log.length != tail.header.length:
        return lost(name, tail.header.length, log.length, _HOW_TO_KEEP)
    if (finished := tail.header.finished) is not None:
        return finished
    return refusals.cancelled(name) if tail.is_cancelled else refusals.router_gone(name)
