"""One worker of the fleet as this router knows it: whether it lives, what it said of itself, how full it is.

It holds what others find out, and asks nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from fleet.announcement import Announcement
from fleet.placement import Candidate
from fleet.registry import mixed_fleet
from router_svc.trajectory.types import Model
from router_svc.workers.client import WorkerClient
from router_svc.workers.discovery import Found, Standing
from router_svc.workers.load import Load
from router_svc.workers.runs import WorkerInfo
from rstitch.errors import RstitchError

# A worker that takes longer to say what it is does not answer, as people are told; it may still do so in time.
_SILENT_S = 0.5
NO_ANSWER = "no answer"
# So long a worker that was told to drain here may still be heard saying that it does not: it was said before.
_MARK_S = 3.0


class Member:
    """A worker.

    Attributes:
        info: of the last instance that was admitted; None: none was, or what is there now was not.
        answers: whether it did when it was looked at last; sessions are placed there only if it did.
        is_suspect: something went wrong with it since, and it is being looked at.
        is_lost: it is not there, or is not one of the fleet; not one that only keeps silent.
        is_gone: its announcement has ended.
        draining: sessions are to leave it, if another takes them.
        detail: why it does not answer.
        refusal: why it is not one of the fleet.
        asked_at: by the monotonic clock, while it is asked what it is.
        heard_at: likewise, when it last said so; when it was found, before.
    """

    def __init__(self, model: Model, found: Found, client: WorkerClient) -> None:
        self.model = model
        self.key = found.key
        self.address = found.address
        self.client = client
        self.announcement: Announcement | None = None
        self.info: WorkerInfo | None = None
        self.answers = self.is_suspect = self.is_lost = self.is_gone = False
        self.detail = "not reached yet"
        self.refusal: RstitchError | None = None
        self.asked_at: float | None = None
        self.heard_at = 0.0
        self.look = asyncio.Event()
        self.load = Load()
        self.num_pages = self.num_free_pages = self.num_running = 0
        self._worker_id = ""  # as it calls itself
        self._standing = found.standing
        self.draining = self.is_leaving
        self._is_told_to_drain = False
        self._marked_until = 0.0

    @property
    def id(self) -> str:
        """Its name in the fleet; the address of one that has none."""
        return self.announcement.id if self.announcement is not None else self._worker_id or self.address

    @property
    def is_polled(self) -> bool:
        """Whether only asking it tells that it lives; else its announcement does."""
        return self.announcement is None or self._standing is Standing.SILENT

    @property
    def is_leaving(self) -> bool:
        """Whether its address is none of its name's any more."""
        return self._standing is Standing.LEAVING

    @property
    def takes_sessions(self) -> bool:
        return self.answers and not self.draining

    @property
    def is_admitted(self) -> bool:
        """Whether it is one of the fleet, by which others are judged; also while it is looked at anew."""
        return self.info is not None and not self.is_lost

    @property
    def fingerprint(self) -> str:
        """Fingerprints of weights and tokenizer as the registry has them; "" before it has said."""
        if self.announcement is not None:
            return self.announcement.fingerprint
        return fingerprint_of(self.info) if self.info is not None else ""

    @property
    def num_cards(self) -> int:
        if self.announcement is not None:
            return self.announcement.num_cards
        return max(1, self.info.num_cards) if self.info is not None else 1

    @property
    def state(self) -> str:
        """One of ready, draining, refused and lost."""
        if self.answers:
            return "draining" if self.draining else "ready"
        return "refused" if self.refusal is not None else "lost"

    def reads(self, length: int) -> bool:
        """Whether its context is as long; it may have come after the session had begun, and be smaller than others."""
        return self.info is not None and self.info.context_length >= length

    def status(self, now: float) -> tuple[bool, str]:
        """Whether it answers, and what it waits for if not; of one that answered last, whether it is silent."""
        if not self.answers:
            return False, self.detail
        is_silent = self.asked_at is not None and now - self.asked_at > _SILENT_S
        return True, NO_ANSWER if is_silent else ""

    def candidate(self, now: float) -> Candidate:
        busy = self.num_running + self.load.num_new(now)
        return Candidate(self.id, self.load.num_bound(now), self.num_free_pages, busy)

    def found(self, found: Found, before: float, now: float) -> bool:
        """Takes what a source said, which did not say so at `before` yet. Returns whether it is to be looked at."""
        was_polled, told = self.is_polled, found.announcement
        self._standing = found.standing
        self.draining = self._is_told_to_drain or self.is_leaving
        if told is None or found.standing is not Standing.THERE:
            return self.is_polled and not was_polled
        self._says_draining(told.draining, now)
        if told == self.announcement:  # of an idle worker each is as the one before
            return self.is_polled and not was_polled
        is_new = self.announcement is None or told.instance_id != self.announcement.instance_id
        self.announcement = told
        self.load.said(told.num_sessions, before)
        self.num_pages, self.num_free_pages = told.num_pages, told.num_free_pages
        self.num_running = told.num_running + told.num_waiting
        return is_new

    def said(self, info: WorkerInfo, asked_at: float, now: float) -> None:
        """Takes what it said of itself when it was asked. An announcement, which is as fresh, counts idle sessions."""
        self._worker_id = info.worker_id
        self._says_draining(info.draining, now)
        if self.is_polled:
            room = info.room
            self.load.said(room.num_sessions, asked_at)
            self.num_pages, self.num_free_pages, self.num_running = (
                room.num_pages,
                room.num_free_pages,
                room.num_running,
            )

    def mark_draining(self, draining: bool, now: float) -> None:
        """Somebody drains it through this router, or no longer: it says so itself a moment later."""
        self._marked_until = 0.0
        self._says_draining(draining, now)
        self._marked_until = now + _MARK_S

    def _says_draining(self, draining: bool, now: float) -> None:
        if now >= self._marked_until:
            self._is_told_to_drain = draining
            self.draining = draining or self.is_leaving


def fingerprint_of(info: WorkerInfo) -> str:
    """What the members of a role must have in common, as the registry writes it."""
    return f"{info.weights_fingerprint}/{info.fingerprint}"


def check_same(fleet: str, model: Model, info: WorkerInfo, others: Iterable[WorkerInfo]) -> None:
    """Raises RstitchError (FAILED_PRECONDITION, MIXED_FLEET) if a worker writes other tokens than those of its role.

    An older one does not say which weights it has, and is taken at its word that they are the same.
    """
    for other in others:
        pairs = ((info.weights_fingerprint, other.weights_fingerprint), (info.fingerprint, other.fingerprint))
        is_other = any(own and its and own != its for own, its in pairs)
        if is_other or info.vocab_size != other.vocab_size or info.stop_tokens != other.stop_tokens:
            raise mixed_fleet(model.label, fleet, fingerprint_of(info), fingerprint_of(other))
