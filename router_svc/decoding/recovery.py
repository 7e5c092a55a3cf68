"""What to do when a run fails: correct, wait, go elsewhere, give up. It keeps every token; it starts no run itself."""

from __future__ import annotations

import asyncio

import grpc
import structlog

from router_svc.text.vocabularies import Vocabularies
from router_svc.trajectory.types import Model
from router_svc.workers.bound import BoundSession
from router_svc.workers.client import WorkerClient
from router_svc.workers.fleet import Fleet, worker_unavailable
from router_svc.workers.member import Member
from router_svc.workers.streams import is_lost
from rstitch.backoff import Backoff
from rstitch.errors import RstitchError

_log = structlog.get_logger(__name__)
# The worker said what it lacks: the next run sends that.
_CORRECTED = ("HELD_TOO_SHORT", "PREFIX_MISMATCH")
_HEAD_UNKNOWN = "HEAD_UNKNOWN"
# The worker does not take this router's key or certificate: nothing that whoever asked could mend.
_NOT_LET_IN = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
# More corrections than this without a token between them are no accident.
_MAX_CORRECTIONS = 16


class Recovery:
    """The patience of one generation with its workers: for one that is lost or busy, and for room on one.

    Both are counted without progress: a token that is kept begins them anew.
    """

    def __init__(
        self,
        fleet: Fleet,
        bound: BoundSession,
        vocabularies: Vocabularies,
        worker_patience_s: float,
        capacity_patience_s: float,
    ) -> None:
        self._fleet = fleet
        self.bound = bound
        self._vocabularies = vocabularies  # that the answer is written in
        self._worker_patience_s = worker_patience_s
        self._lost = Backoff(first_s=0.05, max_s=1.0, patience_s=worker_patience_s)
        self._full = Backoff(first_s=0.05, max_s=1.0, patience_s=capacity_patience_s)
        self._num_corrections = 0
        self._tried: set[Member] = set()  # workers that failed, or were full, since the last progress

    def progress(self) -> None:
        self._lost.reset()
        self._full.reset()
        self._num_corrections = 0
        if self._tried:
            self._tried.clear()

    def client(self, model: Model) -> WorkerClient:
        """The worker that the next run goes to."""
        return self.bound.client(model)

    async def before(self, model: Model) -> None:
        """The worker was lost while nobody waited for it: it is looked at before anything is trusted to it.

        Raises RstitchError if it does not come back, or as another.
        """
        await self._wait_usable(model)

    async def after(self, model: Model, error: RstitchError) -> None:
        """Returns when a new run is worth a try. Raises the error when it is not."""
        if error.reason in _CORRECTED or error.reason == _HEAD_UNKNOWN:
            self._num_corrections += 1
            if self._num_corrections > _MAX_CORRECTIONS:
                raise error
            if error.reason == _HEAD_UNKNOWN:
                await self._put_head(model, error)
            return
        if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED and error.reason != "MESSAGE_TOO_LARGE":
            if not self._went_elsewhere(model, "full", needs_room=True):
                await self._pause(self._full, model, error)
                self._tried.clear()  # meanwhile any of them may have got room
            return
        if error.reason == "SESSION_BUSY":
            await self._pause(self._lost, model, error)
            return
        if is_lost(error):
            # It answers when it is looked at, and fails all the same: another may not.
            if self.bound.member(model) in self._tried and self._went_elsewhere(model, "lost"):
                return
            self._tried.add(self.bound.member(model))
            if not await self._paused(self._lost, model, error):
                raise worker_unavailable(model)
            await self._wait_usable(model)
            return
        if error.code in _NOT_LET_IN:
            _log.error("worker refuses this router", model=model.label, reason=error.reason, error=str(error))
            raise worker_unavailable(model) from error
        raise error

    async def _wait_usable(self, model: Model) -> None:
        await self.bound.find(model, self._worker_patience_s)
        self.check_vocabularies()

    def _went_elsewhere(self, model: Model, reason: str, *, needs_room: bool = False) -> bool:
        """Leaves a worker for one that was not tried since the last progress, if there is one."""
        self._tried.add(self.bound.member(model))
        return self.bound.move(model, reason, self._tried, needs_room=needs_room)

    def check_vocabularies(self) -> None:
        """Raises RstitchError (UNAVAILABLE) if a worker has come back as another model."""
        if not self._fleet.is_current(self._vocabularies):
            what = "a worker came back with another vocabulary than the answer was begun in."
            remedy = "Serve the model that it was begun with, then re-attach with resume_from; or begin a new session."
            raise RstitchError(grpc.StatusCode.UNAVAILABLE, "TOKENIZER_CHANGED", what, remedy=remedy)

    async def _put_head(self, model: Model, error: RstitchError) -> None:
        try:
            await self.client(model).put_head(error.metadata["head"])
        except RstitchError as failed:
            if failed.code is not grpc.StatusCode.DEADLINE_EXCEEDED:  # else it is busy: the next run says what it lacks
                await self.after(model, failed)

    async def _pause(self, backoff: Backoff, model: Model, error: RstitchError) -> None:
        if not await self._paused(backoff, model, error):
            raise error

    async def _paused(self, backoff: Backoff, model: Model, error: RstitchError) -> bool:
        """Waits for the next try; False if the patience is at its end."""
        delay_s = backoff.next_s(error.retry_after_s or 0.0)
        if delay_s is None:
            return False
        _log.info("run will be tried again", model=model.label, reason=error.reason, delay_s=round(delay_s, 3))
        await asyncio.sleep(delay_s)
        return True
