"""A session's two workers while an answer is written, and its moves to others.

    bind      before the claim   the workers that it is bound to, if they live and do not drain; else others
    move      at a run's start   away from a worker that drains or is gone
              at a run's end     away from one that broke off, or has no room

Whoever moves it feeds the new worker all of it: what the old one may still say is not read. Nothing here touches a
token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import structlog

from router_svc.trajectory.binding import UNBOUND, Binding
from router_svc.trajectory.session_names import facts_of
from router_svc.trajectory.types import Header, Model
from router_svc.workers.client import WorkerClient
from router_svc.workers.fleet import Fleet
from router_svc.workers.member import Member
from rstitch.errors import RstitchError

_log = structlog.get_logger(__name__)
# The most to wait at the end for what was begun here: all of it is best effort.
_SETTLE_S = 2.0


class BoundSession:
    """The workers of one session for one answer; `bind` makes it.

    Attributes:
        binding: as it is to be kept with the trajectory.
    """

    def __init__(self, fleet: Fleet, name: str, binding: Binding, lengths: Mapping[Model, int]) -> None:
        self.binding = binding
        self._beginning = ""
        self._fleet = fleet
        self._name = name
        self._lengths = lengths
        self._members: dict[Model, Member] = {}
        self._held: set[Model] = set()  # roles whose worker presumably has the session
        self._doubted: set[Member] = set()  # of whom a look was asked for
        self._left: list[tuple[Model, Member, str]] = []  # that the session was on, and why no longer
        self._keep: Callable[[Binding], Awaitable[bool]] | None = None
        self._closing: dict[Member, asyncio.Task[None]] = {}
        self._keeping: asyncio.Task[None] | None = None

    @classmethod
    def bind(
        cls,
        fleet: Fleet,
        name: str,
        before: Header | None,
        lengths: Mapping[Model, int],
        *,
        begins: bool,
        may_write: Callable[[Model], bool] = lambda model: True,
        beginning: Callable[[], str] = lambda: "",
    ) -> BoundSession:
        """Keeps the workers that a session is bound to, or chooses others.

        Args:
            before: of the session's trajectory; None: it is new.
            lengths: the most tokens that each model may read; of a role without one no worker is chosen.
            begins: an answer begins, and a worker that has far more sessions than others may be left.
            beginning: gives what other sessions begin with, too: a new one goes where that is, if there is a choice.
            may_write: which models the policy may ask; a worker of another is not counted as having one session more.

        Raises RstitchError (UNAVAILABLE) if no worker of a role is known.
        """
        made = cls(fleet, name, before.binding if before is not None else UNBOUND, lengths)
        if before is None and any(len(fleet.rosters[model].members) > 1 for model in lengths):
            made._beginning = beginning()
        for model in lengths:
            made._bind(model, begins=begins, is_asked=may_write(model))
        return made

    def begin(self, keep: Callable[[Binding], Awaitable[bool]]) -> None:
        """The session is ours: other workers have it from now on, and `keep` takes down what changes later."""
        self._keep = keep
        self._close_left()

    def client(self, model: Model) -> WorkerClient:
        """The worker that runs of a model go to now."""
        return self._members[model].client

    def worker_id(self, model: Model) -> str:
        """The id of that worker where the role has several; "" where there is no choice."""
        return self._members[model].id if len(self._fleet.rosters[model].members) > 1 else ""

    def holds(self, model: Model) -> bool:
        """Whether the worker presumably has what there was of the session."""
        return model in self._held

    def instances(self) -> tuple[str, ...]:
        """Which processes the workers are: another one was not there all the time."""
        found = [member.info for member in self._members.values()]
        return tuple(info.instance_id if info is not None else "" for info in found)

    def moved_away(self, model: Model, *, is_doubted: bool = False) -> bool:
        """Leaves a worker that is gone or drains if another takes the session, and says whether it did.

        One that is doubted, as a stream to it broke off, is looked at first: a later call finds out. Called for every
        reply, so it costs next to nothing where all is well.
        """
        member = self._members[model]
        if not (is_doubted or member.is_lost or member.draining):
            return False
        if is_doubted and member not in self._doubted and self._fleet.has_other(member):
            self._doubted.add(member)
            self._fleet.suspect(member)
        if member.is_lost:
            return self.move(model, "lost")
        return member.draining and self.move(model, "draining")

    def is_sound(self, model: Model) -> bool:
        """Whether `moved_away` would find nothing, of a worker that is not doubted."""
        member = self._members[model]
        return not (member.is_lost or member.draining)

    def move(self, model: Model, reason: str, besides: Collection[Member] = (), *, needs_room: bool = False) -> bool:
        """Goes to another worker of the role, if one takes the session; says whether it did."""
        besides = {*besides, self._members[model]}
        other = self._fleet.place(model, self._name, self._lengths[model], besides, needs_room=needs_room)
        if other is None:
            return False
        self._take(model, other, reason)
        return True

    def member(self, model: Model) -> Member:
        return self._members[model]

    async def find(self, model: Model, timeout_s: float) -> None:
        """Returns once there is a worker to go on with: the same, once it was looked at, or another.

        Raises RstitchError (UNAVAILABLE) after the timeout.
        """
        member = self._members[model]
        found = await self._fleet.wait_usable(member, self._name, self._lengths[model], timeout_s)
        if found is not member:
            self._take(model, found, "lost")

    async def arrive(self, model: Model) -> None:
        """Nothing of the session is going on any more where it was: what is held of it there may go."""
        self._close_left()
        closing = self._closing.get(self._members[model])
        if closing is not None:  # it was left a moment ago, and must not close what begins there now
            await asyncio.wait({closing})

    def _close_left(self) -> None:
        left, self._left = self._left, []
        for model, member, reason in left:
            self._fleet.on_move(model, reason)
            if member.answers and member is not self._members[model]:
                closing = self._fleet.close_session(member, self._name)
                self._closing[member] = asyncio.create_task(closing, name=f"close-{self._name}")

    async def settle(self) -> None:
        """The answer is over: waits a while for what was begun here, which is best effort."""
        tasks = {*self._closing.values(), *([self._keeping] if self._keeping is not None else [])}
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_SETTLE_S)
            for task in late:
                task.cancel()

    def _bind(self, model: Model, *, begins: bool, is_asked: bool) -> None:
        roster, worker_id = self._fleet.rosters[model], getattr(self.binding, model.label)
        member = roster.find(worker_id) if worker_id else None
        if member is None and len(roster.members) == 1:
            member = roster.first  # no choice, and no move: an older router kept no id, or another one
        if not is_asked and (anybody := member or roster.first) is not None:
            self._members[model] = anybody
            return
        if member is None:
            self._members[model] = member = self._fleet.any_member(
                model, self._name, self._lengths[model], self._beginning
            )
        else:
            self._members[model] = member
            self._held.add(model)
            if begins and not member.is_lost and not member.draining and roster.is_overloaded(self._name, member):
                self.move(model, "rebalanced")
            else:
                self.moved_away(model)
        self._note(model)

    def _take(self, model: Model, member: Member, reason: str) -> None:
        old = self._members[model]
        self._left.append((model, old, reason))
        self._members[model] = member
        self._held.discard(model)
        self._note(model)
        facts = {"role": model.label, "left": old.id, "worker": member.id, "reason": reason}
        _log.info("session moves", **facts, **facts_of(self._name))

    def _note(self, model: Model) -> None:
        """Takes down a change of the binding: with the claim, or once the answer is being written."""
        chosen = self._members[model].id
        if chosen == getattr(self.binding, model.label):
            return
        changed: dict[str, Any] = {model.label: chosen, "epoch": self.binding.epoch + 1}
        self.binding = replace(self.binding, **changed)
        if self._keep is not None:
            keeping = self._kept(self._keep, self.binding, self._keeping)
            self._keeping = asyncio.create_task(keeping, name=f"bind-{self._name}")

    async def _kept(
        self, keep: Callable[[Binding], Awaitable[bool]], binding: Binding, before: asyncio.Task[None] | None
    ) -> None:
        if before is not None:
            await asyncio.wait({before})
        try:
            await keep(binding)
        except RstitchError as error:  # whoever goes on with the session chooses anew
            _log.warning("binding not kept", error=str(error), **facts_of(self._name))
