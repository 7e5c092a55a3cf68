"""All workers of both roles: whether questions can be taken, whom a session is bound to, and who takes its place.

Several routers see the same fleet, and none asks another: what they share of a session is in its trajectory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial

import grpc
import structlog

from router_svc.text.vocabularies import Vocabularies
from router_svc.trajectory.binding import Binding
from router_svc.trajectory.session_names import facts_of
from router_svc.trajectory.types import Model
from router_svc.workers.client import WorkerClient
from router_svc.workers.discovery import Found, Source
from router_svc.workers.kept_heads import KeptHeads
from router_svc.workers.member import Member
from router_svc.workers.pairing import Pairing
from router_svc.workers.roster import Roster
from router_svc.workers.runs import WorkerInfo
from rstitch.errors import RstitchError

_log = structlog.get_logger(__name__)
MakeClient = Callable[[Model, KeptHeads, Found], WorkerClient]


class Fleet:
    """The workers of the SLM and of the LLM. The task of `monitor` must run.

    Attributes:
        rosters: the workers, by role.
        on_move: told of each session that leaves a worker: whose role, and one of lost, draining, full, rebalanced.
    """

    def __init__(self, name: str, sources: Mapping[Model, Source], make_client: MakeClient) -> None:
        self._changed = asyncio.Condition()
        self._pairing = pairing = Pairing()
        self._heads = {model: KeptHeads() for model in Model}
        self.rosters = {
            model: Roster(model, name, source, partial(make_client, model, self._heads[model]), pairing, self._changed)
            for model, source in sources.items()
        }
        self.on_move: Callable[[Model, str], None] = lambda model, reason: None

    @property
    def mismatch(self) -> RstitchError | None:
        """Why the two models cannot be stitched, if they cannot."""
        return self._pairing.mismatch

    @property
    def ready(self) -> bool:
        """Whether workers of both roles were seen and can be stitched; they may be away at the moment."""
        return self._pairing.vocabularies is not None and self.mismatch is None

    @property
    def detail(self) -> str:
        """What is waited for and who is refused, "" if nothing is and nobody."""
        if self.mismatch is not None:
            return self.mismatch.message
        return "; ".join(said for roster in self.rosters.values() for said in _details(roster))

    @property
    def _waits_for(self) -> str:
        """What is waited for, in the words of an error: without addresses."""
        missing = [model.name for model, roster in self.rosters.items() if not roster.answers]
        return f"it waits for the worker of the {' and of the '.join(missing)}" if missing else "the models are matched"

    @property
    def vocabularies(self) -> Vocabularies:
        """Both models' vocabularies. Raises RstitchError (UNAVAILABLE) while they are not known."""
        self.check_ready()
        assert self._pairing.vocabularies is not None
        return self._pairing.vocabularies

    @property
    def told(self) -> str:
        """How the vocabularies were matched, in one line; "" until they are."""
        known = self._pairing.vocabularies
        return known.matching.told if known is not None else ""

    @property
    def identity(self) -> tuple[str, ...]:
        """Changes when what was learnt of the workers' speed says nothing of those that are there now.

        A worker that was alone, and was restarted, is another one; one of several is not.
        """
        return tuple(roster.identity for roster in self.rosters.values())

    def is_current(self, vocabularies: Vocabularies) -> bool:
        """Whether these are still those of the workers."""
        return self._pairing.vocabularies is vocabularies

    def context_lengths(self) -> Mapping[Model, int]:
        """The most tokens of a session, by the model that reads it."""
        self.check_ready()
        found = {model: roster.context_length for model, roster in self.rosters.items()}
        return {model: length for model, length in found.items() if length is not None}

    def check_ready(self) -> None:
        """Raises RstitchError (UNAVAILABLE) unless questions can be taken."""
        if self.mismatch is not None:
            raise self.mismatch
        if self._pairing.vocabularies is None:
            what, remedy = f"the router is not ready: {self._waits_for}.", "Try again when its health says SERVING."
            raise RstitchError(grpc.StatusCode.UNAVAILABLE, "NOT_READY", what, remedy=remedy, retry_after_s=1.0)

    def members(self) -> list[Member]:
        """All workers, the SLM's first, each sorted by id."""
        return [each for roster in self.rosters.values() for each in sorted(roster.members.values(), key=_id)]

    def info(self, model: Model) -> WorkerInfo | None:
        """What the workers of a role are; None before one answered."""
        return self.rosters[model].info

    def names(self) -> dict[Model, str]:
        """The models' names, "" for one that was not seen yet."""
        return {model: info.model if (info := self.info(model)) is not None else "" for model in Model}

    def status(self, model: Model) -> tuple[bool, str]:
        """Whether a worker answers, and what is waited for if none does; of one alone, whether it is silent."""
        first = self.rosters[model].first
        if first is None:
            return False, self.rosters[model].nobody
        return first.status(time.monotonic())

    def address(self, model: Model) -> str:
        """That of the worker whose status is told; "" if none is known."""
        first = self.rosters[model].first
        return first.address if first is not None else ""

    def client(self, model: Model) -> WorkerClient:
        """The worker whose status is told. Raises RstitchError (UNAVAILABLE) if none is known."""
        first = self.rosters[model].first
        if first is None:
            raise worker_unavailable(model)
        return first.client

    def keep_head(self, model: Model, name: str, data: bytes) -> None:
        """Remembers a head that runs of a role will name, whichever of its workers they go to."""
        self._heads[model].keep(name, data)

    def find(self, worker_id: str) -> Member | None:
        """The worker of an id, or at an address; of several the one that answers."""
        members = sorted(self.members(), key=lambda each: not each.answers)
        by_id = [each for each in members if each.id == worker_id]
        return next(iter(by_id + [each for each in members if each.address == worker_id]), None)

    def suspect(self, member: Member) -> None:
        """Has a worker looked at with which something went wrong."""
        self.rosters[member.model].suspect(member)

    def place(
        self, model: Model, name: str, length: int, besides: Collection[Member] = (), *, needs_room: bool = False
    ) -> Member | None:
        """Chooses a worker for a session of up to so many tokens, and counts it there; None: no other has room."""
        return self.rosters[model].place(name, length, besides, needs_room=needs_room)

    def any_member(self, model: Model, name: str, length: int, beginning: str = "") -> Member:
        """Chooses a worker for a session whatever state they are in. Raises RstitchError if none is known."""
        roster = self.rosters[model]
        member = roster.place(name, length, beginning=beginning) or roster.first
        if member is None:
            raise worker_unavailable(model)
        return member

    def has_other(self, member: Member) -> bool:
        """Whether another worker of its role takes sessions."""
        return self.rosters[member.model].takes((member,))

    async def wait_ready(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self.ready)

    async def wait_change(self) -> None:
        async with self._changed:
            await self._changed.wait()

    async def wait_usable(self, member: Member, name: str, length: int, timeout_s: float) -> Member:
        """Has a worker looked at, and returns it if it answers, or another one for a session as soon as there is one.

        Raises RstitchError (UNAVAILABLE) after the timeout, at once if what it came back as cannot be stitched.
        """
        roster, found = self.rosters[member.model], member
        roster.suspect(member)

        def is_found() -> bool:
            nonlocal found
            if self.mismatch is not None or member.answers:
                return True
            if member.is_suspect:
                return False
            last = (each for each in roster.members.values() if each.answers and each.reads(length))
            found = roster.place(name, length, (member,)) or next(last, member)
            return found is not member

        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(is_found)
        except TimeoutError:
            raise worker_unavailable(member.model) from None
        if self.mismatch is not None:
            raise self.mismatch
        return found

    async def monitor(self) -> None:
        async with asyncio.TaskGroup() as group:
            for model, roster in self.rosters.items():
                group.create_task(roster.keep(), name=f"roster-{model.label}")

    async def forget(self, name: str, binding: Binding) -> None:
        """Closes a session on the workers that have it. Best effort: what they hold of it is evicted anyway."""
        bound = {Model.SLM: binding.slm, Model.LLM: binding.llm}
        members = [
            each
            for model, roster in self.rosters.items()
            for each in roster.members.values()
            if each.id == bound[model] or not bound[model] or len(roster.members) == 1
        ]
        await asyncio.gather(*(self.close_session(each, name) for each in members))

    async def close_session(self, member: Member, name: str) -> None:
        """Frees what a worker holds of a session; one that cannot be asked evicts it some time."""
        try:
            await member.client.close_session(name)
        except RstitchError as error:
            facts = facts_of(name)
            _log.info(
                "session not closed on worker", role=member.model.label, worker=member.id, error=str(error), **facts
            )

    async def close(self) -> None:
        for roster in self.rosters.values():
            await roster.close()


def _id(member: Member) -> str:
    return member.id


def _details(roster: Roster) -> list[str]:
    """What is waited for of a role, and who is refused there."""
    role, members = roster.model.name, list(roster.members.values())
    if not members:
        return [f"waiting for a worker of the {role}: {roster.nobody}"]
    if any(each.answers for each in members):
        members = [each for each in members if each.refusal is not None]
        return [f"the {role} worker {each.id} at {each.address} is refused: {each.detail}" for each in members]
    return [f"waiting for the {role} worker at {each.address}: {each.detail}" for each in members]


def worker_unavailable(model: Model) -> RstitchError:
    """UNAVAILABLE: the patience with a worker is at its end. Where it is and why, the log and GetStatus say."""
    what = f"the {model.name}'s worker does not answer."
    remedy = "Start it again, then re-attach with resume_from."
    return RstitchError(grpc.StatusCode.UNAVAILABLE, "WORKER_UNAVAILABLE", what, remedy=remedy, retry_after_s=1.0)
