"""The workers of one role: who is there, whether each of them lives and is as the others are, and who takes sessions.

A worker that was restarted is looked at anew before anything is trusted to it. It decodes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

import grpc
import structlog

from fleet.placement import few, is_overloaded, near, nearest, place
from router_svc.trajectory.types import Model
from router_svc.workers.client import WorkerClient
from router_svc.workers.discovery import Found, Listed, Source
from router_svc.workers.member import NO_ANSWER, Member, check_same
from router_svc.workers.pairing import Pairing, RoleVocabulary
from router_svc.workers.runs import WorkerInfo
from rstitch.backoff import Backoff
from rstitch.errors import RstitchError

_log = structlog.get_logger(__name__)
_LOOK_EVERY_S = 1.0
# How long a worker may take to say what it is; one that is suspect, where others are there.
_PATIENCE_S, _SUSPECTS_PATIENCE_S = 5.0, 2.0
# Who has said nothing for so long is not waited for, and has no say in what the others must be: its host may be gone.
_LOST_AFTER_S = 60.0
# So long may calls still go on to a worker that is gone.
_GRACE_S = 60.0
MakeClient = Callable[[Found], WorkerClient]


class Roster:
    """The workers of a role in one fleet; the task of `keep` must run, and notifies `changed`.

    Attributes:
        members: all that are known, in order of their keys; replaced whole, as metrics read it in a thread of theirs.
        identity: changes when what is known of how fast the role is no longer holds: another worker came while no
            other was there.
    """

    def __init__(
        self,
        model: Model,
        fleet: str,
        source: Source,
        make_client: MakeClient,
        pairing: Pairing,
        changed: asyncio.Condition,
    ) -> None:
        self.model = model
        self.members: dict[str, Member] = {}
        self.identity = ""
        self.nobody = source.nobody
        self._fleet = fleet
        self._source = source
        self._make_client = make_client
        self._pairing = pairing
        self._changed = changed
        self._admitting = asyncio.Lock()
        self._group: asyncio.TaskGroup | None = None
        self._tasks: dict[Member, asyncio.Task[None]] = {}
        self._gone: set[Member] = set()  # whose connections may still be in use
        self._unmade: set[str] = set()  # of those that are found, whom this router cannot call
        self._read_at = 0.0  # when the source was asked last
        self._last_info: WorkerInfo | None = None
        if isinstance(source, Listed):
            for found in source.found:
                self._add(found)

    @property
    def first(self) -> Member | None:
        """Who speaks for the role where one is asked for: a worker that is ready, if any is; None: there is none."""
        members = self.members.values()
        ranked = sorted(members, key=lambda each: (not each.takes_sessions, not each.answers, each.info is None))
        return ranked[0] if ranked else None

    @property
    def info(self) -> WorkerInfo | None:
        """What the workers of the role are, with what all of them can; None before one answered."""
        infos = [each.info for each in self.members.values() if each.info is not None]
        first = self.first
        info = first.info if first is not None and first.info is not None else self._last_info
        if info is None or len(infos) < 2:
            return info
        terms, grammars = all(each.head_terms for each in infos), all(each.grammars for each in infos)
        return replace(info, head_terms=terms, grammars=grammars)

    @property
    def context_length(self) -> int | None:
        """The smallest of the workers'; None before one answered."""
        lengths = [each.info.context_length for each in self.members.values() if each.info is not None]
        if not lengths and self._last_info is not None:
            lengths = [self._last_info.context_length]
        return min(lengths, default=None)

    @property
    def answers(self) -> bool:
        return any(each.answers for each in self.members.values())

    def find(self, worker_id: str) -> Member | None:
        """The worker of that id; of several the one that answers."""
        found = [each for each in self.members.values() if each.id == worker_id]
        return next((each for each in found if each.answers), found[0] if found else None)

    def takes(self, besides: Collection[Member] = ()) -> bool:
        """Whether another worker takes sessions."""
        return any(each.takes_sessions and each not in besides for each in self.members.values())

    def place(
        self,
        name: str,
        length: int,
        besides: Collection[Member] = (),
        *,
        needs_room: bool = False,
        beginning: str = "",
    ) -> Member | None:
        """Places a session of up to so many tokens, and counts it; None where no other takes it, or has room now.

        With a `beginning`, of which others are, it goes to who presumably has read that.
        """
        now, takers = self._now(), [each for each in self._takers(besides) if each.reads(length)]
        if needs_room:
            takers = [each for each in takers if each.num_free_pages or each.is_polled]
        own = few(name, takers)
        by_id = {each.id: each for each in (takers if beginning else own)}
        candidates, chosen = [each.candidate(now) for each in own], None
        if beginning:
            chosen = near([by_id[id_].candidate(now) for id_ in nearest(beginning, by_id)], candidates)
        chosen = chosen or place(name, candidates)
        if chosen is None:
            return None
        by_id[chosen.id].load.place(now)
        return by_id[chosen.id]

    def is_overloaded(self, name: str, member: Member) -> bool:
        """Whether a conversation does better to leave it, though what it holds would be computed again."""
        now, others = self._now(), few(name, self._takers((member,)))
        return is_overloaded(member.candidate(now), [each.candidate(now) for each in others])

    def suspect(self, member: Member) -> None:
        """Something went wrong with it: until the next look nobody trusts it, as that may be older than this."""
        if not member.is_gone:
            member.answers, member.is_suspect = False, True
            member.look.set()

    async def keep(self) -> None:
        """Watches source and workers until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            for member in self.members.values():
                self._watch(member)
            while True:
                await self._read()
                if self._source.every_s is None:
                    return  # the group goes on
                await asyncio.sleep(self._source.every_s if self.members else min(0.5, self._source.every_s))

    async def close(self) -> None:
        for member in (*self.members.values(), *self._gone):
            await member.client.close()

    def _takers(self, besides: Collection[Member]) -> list[Member]:
        return [each for each in self.members.values() if each.takes_sessions and each not in besides]

    async def _read(self) -> None:
        before, self._read_at = self._read_at, self._now()
        found = await self._source.look()
        if found is None:
            return
        there = {each.key: each for each in found}
        for key in self.members.keys() - there.keys():
            self._remove(self.members[key], "it is not there any more")
        for key in sorted(there):
            member = self.members.get(key) or self._add(there[key])
            if member is not None and member.found(there[key], before, self._now()):
                member.look.set()
        await self._tell()

    def _add(self, found: Found) -> Member | None:
        try:
            client = self._make_client(found)
        except RstitchError as error:
            if self._group is None:  # at the start there is somebody to be told
                raise
            if found.key not in self._unmade:
                _log.error("worker cannot be called", role=self.model.label, address=found.address, error=str(error))
            self._unmade.add(found.key)
            return None
        self._unmade.discard(found.key)
        member = Member(self.model, found, client)
        member.found(found, 0.0, 0.0)
        member.heard_at = self._now()
        self.members = dict(sorted([*self.members.items(), (found.key, member)]))
        if self._group is not None:
            self._watch(member)
        return member

    def _watch(self, member: Member) -> None:
        assert self._group is not None
        name = f"monitor-{self.model.label}-{member.key}"
        self._tasks[member] = self._group.create_task(self._monitor(member), name=name)

    def _remove(self, member: Member, why: str) -> None:
        """Whoever waits for it goes elsewhere at once, and what it may still say is not heard."""
        assert self._group is not None
        _log.warning("worker gone", role=self.model.label, worker=member.id, address=member.address, why=why)
        self.members = {key: each for key, each in self.members.items() if each is not member}
        member.answers = member.is_suspect = False
        member.is_lost = member.is_gone = True
        member.detail = why
        self._tasks.pop(member).cancel()
        member.client.lose()
        self._gone.add(member)
        self._group.create_task(self._leave(member), name=f"leave-{member.key}")

    async def _leave(self, member: Member) -> None:
        await member.client.close(_GRACE_S)
        self._gone.discard(member)

    async def _monitor(self, member: Member) -> None:
        backoff = Backoff(first_s=0.1, max_s=_LOOK_EVERY_S, patience_s=None)
        while True:
            member.look.clear()
            try:
                await self._look(member)
                backoff.reset()
                delay_s = _LOOK_EVERY_S if member.is_polled else None
            except RstitchError as error:
                self._failed(member, error)
                delay_s = backoff.next_s()
            member.is_suspect = False
            await self._tell()
            if member.is_leaving and not member.answers and len(self.members) > 1:
                self._source.forget(member.key)
            try:
                async with asyncio.timeout(delay_s):
                    await member.look.wait()
                backoff.reset()  # someone waits for it
            except TimeoutError:
                continue

    def _failed(self, member: Member, error: RstitchError) -> None:
        is_silent = error.code is grpc.StatusCode.DEADLINE_EXCEEDED
        detail = NO_ANSWER if is_silent else f"{error.code.name.lower()}: {error.message}"
        if member.answers or member.detail != detail:
            _log.warning("waiting for worker", role=self.model.label, address=member.address, error=detail)
        member.answers, member.detail = False, detail
        member.is_lost = member.is_lost or not is_silent or self._now() - member.heard_at > _LOST_AFTER_S
        member.refusal = error if error.code is grpc.StatusCode.FAILED_PRECONDITION else None

    async def _look(self, member: Member) -> None:
        others = [each for each in self.members.values() if each is not member]
        is_hurried = member.is_suspect and any(each.answers for each in others)
        member.asked_at = asked_at = self._now()
        try:
            info = await member.client.info(_SUSPECTS_PATIENCE_S if is_hurried else _PATIENCE_S)
        finally:
            member.asked_at = None
        member.said(info, asked_at, self._now())
        if member.info is None or member.info.instance_id != info.instance_id:
            if info.role is not None and info.role is not self.model:
                what = f"it says that it is the {info.role.name}"
                raise RstitchError(grpc.StatusCode.FAILED_PRECONDITION, "WRONG_ROLE", what)
            async with self._admitting:
                await self._admit(member, info, [each for each in others if each.is_admitted])
        member.answers, member.detail, member.refusal, member.is_lost = True, "", None, False
        member.heard_at = self._now()

    async def _admit(self, member: Member, info: WorkerInfo, others: Iterable[Member]) -> None:
        """Takes a worker that is new, or was restarted. Raises RstitchError if it is not as those that are there."""
        member.info = None
        known = [each.info for each in others if each.info is not None]
        check_same(self._fleet, self.model, info, known)
        files = self._pairing.files_of(self.model, info.fingerprint) if known else None
        is_first = files is None
        files = files or await member.client.tokenizer()
        _log.info("worker found", role=self.model.label, worker=member.id, address=member.address, model=info.model)
        member.info, self._last_info = info, info
        member.answers, member.detail, member.is_lost = False, "its tokenizer is being read", False
        if not known:
            self.identity = info.instance_id
        if is_first:
            try:
                await self._pairing.take(self.model, RoleVocabulary.of(info, files), info.model)
            except RstitchError:
                member.info = None  # to be looked at again
                raise

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _now(self) -> float:
        return time.monotonic()
