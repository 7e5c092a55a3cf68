"""The actor that knows a fleet's plan: it adds units and takes them away, and says how they are.

There is one of it for each fleet, so that two who scale never do it at once. How many units there are it does not
remember: they are those that Ray has. It decides nothing by itself, and no unit needs it to live.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from fleet.announcement import Announcement
from launching import placing, registered
from launching.plan import Plan
from launching.scaling import number_of
from launching.states import FleetState, ProgramState, UnitState
from rstitch.errors import RstitchError

KEEPER = "keeper"
SCALER = "scaler"
_OWN = (KEEPER, SCALER)
# In the order in which they end: who asks before who answers.
_ORDER = ("router", "slm", "llm", "redis")
_STATE_TIMEOUT_S = 3.0
_REDIS_TIMEOUT_S = 60.0
# Beyond what its programs get to end: for the actor's own answer.
_STOP_SLACK_S = 15.0
_LOOK_S = 0.2


class Keeper:
    """Adds units of a plan, and takes them away."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._changing = threading.Lock()
        self._leaving: set[str] = set()
        if ray.get_runtime_context().was_current_actor_reconstructed:
            threading.Thread(target=self._take_over, name="take over", daemon=True).start()

    def plan(self) -> Plan:
        """The plan that it keeps to."""
        return self._plan

    def count(self, role: str) -> int:
        """Says how many units of a role there are, with those that start and without those that leave."""
        return len(self._ids(role))

    def scale(self, role: str, number: int, within_s: float) -> list[str]:
        """Adds units of a role, or takes some away, each once it is drained or `within_s` is over.

        Returns the ids of those that were added; it does not wait for them.
        """
        with self._changing:
            ids = self._ids(role)
            added = [self._add(role, free) for free in _free_numbers(ids, number - len(ids))]
            leaving = self._least(ids, len(ids) - number)
            self._leaving.update(leaving)
        self._end(leaving, within_s)
        return added

    def drain(self, ids: Sequence[str], within_s: float) -> list[str]:
        """Takes these units away, each once it is drained or `within_s` is over; returns those that were killed."""
        with self._changing:
            leaving = [each for each in ids if each not in self._leaving]
            self._leaving.update(leaving)
        return self._end(leaving, within_s)

    def close(self, within_s: float) -> list[str]:
        """Takes all units away, routers first and its own Redis last. Returns those that had to be killed."""
        killed: list[str] = []
        for role in _ORDER:
            killed += self.drain(self._ids(role), within_s)
        return killed

    def look(self) -> FleetState:
        """Says how the units are, and what the workers among them announce."""
        placed, ids = placing.placed(self._plan.fleet), self._ids()
        told = self._told(ids)
        units = []
        for each in ids:
            where = placed.get(each)
            node = where.node if where else ""
            lacks = placing.lacking(where) if where and not node else ""
            cards = where.resources.get("GPU", 0.0) if where else 0.0
            units.append(UnitState(each, _role(each), node, cards, told.get(each, ()), lacks))
        announced, error = self._announced()
        return FleetState(tuple(units), announced, error)

    def _take_over(self) -> None:
        """Goes on with what the keeper before this one, whose process was lost, had begun to take away."""
        stopping = self._asked(self._ids(), "is_stopping")
        self.drain([each for each, is_stopping in stopping.items() if is_stopping], _STOP_SLACK_S)

    def _add(self, role: str, number: int) -> str:
        unit = self._plan.unit(role, number, "" if role == "redis" else self._redis_url())
        placing.remove_group(self._plan.fleet, unit.id)  # of one whose actor was killed by others
        placing.place(self._plan.fleet, unit)
        return unit.id

    def _redis_url(self) -> str:
        """The Redis that was given, or that of its own. Raises RuntimeError if that does not come up."""
        if self._plan.redis_url:
            return self._plan.redis_url
        if not self._ids("redis"):
            self._add("redis", 0)
        deadline = time.monotonic() + _REDIS_TIMEOUT_S
        while time.monotonic() < deadline:
            for program in self._told(["redis-0"]).get("redis-0", ()):
                if program.is_listening:
                    return self._plan.redis_at(program.address)
            time.sleep(_LOOK_S)
        raise RuntimeError(f"the fleet's own Redis does not come up within {_REDIS_TIMEOUT_S:g} s")

    def _announced(self) -> tuple[dict[str, Announcement], str]:
        try:
            if self._plan.redis_url or self._ids("redis"):
                return registered.read(self._plan.fleet, self._redis_url(), self._plan.redis_login), ""
        except (RstitchError, RuntimeError) as error:
            return {}, str(error)
        return {}, ""

    def _ids(self, role: str = "") -> list[str]:
        others = self._leaving.union(_OWN)
        there = (each for each in placing.names(self._plan.fleet) if each not in others)
        found = (each for each in there if not role or _role(each) == role)
        return sorted(found, key=lambda each: (_ORDER.index(_role(each)), number_of(each)))

    def _least(self, ids: Sequence[str], number: int) -> list[str]:
        """Those with the fewest sessions; a worker that has not even announced itself has none."""
        if number < 1:
            return []
        announced, _ = self._announced()
        sessions = {each: announced[each].num_sessions if each in announced else 0 for each in ids}
        return sorted(ids, key=lambda each: (sessions[each], -number_of(each)))[:number]

    def _told(self, ids: Iterable[str]) -> dict[str, tuple[ProgramState, ...]]:
        """What the actors of units say that answer in time; others are placed or started anew at the moment."""
        told: dict[str, tuple[ProgramState, ...] | None] = self._asked(ids, "state")
        return {each: state for each, state in told.items() if state is not None}

    def _asked(self, ids: Iterable[str], method: str) -> dict[str, Any]:
        """What the actors of units answer in time; None of the others."""
        actors = {each: placing.handle(self._plan.fleet, each) for each in ids}
        asked = {each: getattr(actor, method).remote() for each, actor in actors.items() if actor is not None}
        if asked:
            ray.wait(list(asked.values()), num_returns=len(asked), timeout=_STATE_TIMEOUT_S)
        answers: dict[str, Any] = {}
        for each, reply in asked.items():
            try:
                answers[each] = ray.get(reply, timeout=0)
            except (RayActorError, GetTimeoutError):
                answers[each] = None
        return answers

    def _end(self, ids: Sequence[str], within_s: float) -> list[str]:
        if not ids:
            return []
        with ThreadPoolExecutor(len(ids)) as pool:
            clean = list(pool.map(lambda each: self._end_one(each, within_s), ids))
        return [each for each, ended in zip(ids, clean, strict=True) if not ended]

    def _end_one(self, unit_id: str, within_s: float) -> bool:
        """Whether its programs ended by themselves; those of one that is not placed never began."""
        where = placing.placed(self._plan.fleet).get(unit_id)
        actor: Any = placing.handle(self._plan.fleet, unit_id)
        try:
            if actor is None or where is None or not where.node:
                return True
            return bool(ray.get(actor.stop.remote(within_s), timeout=within_s + _STOP_SLACK_S))
        except (RayActorError, GetTimeoutError):
            return False
        finally:
            placing.remove(self._plan.fleet, unit_id)
            while unit_id in placing.names(self._plan.fleet):
                time.sleep(_LOOK_S)
            self._leaving.discard(unit_id)


def _role(unit_id: str) -> str:
    return unit_id.rpartition("-")[0]


def _free_numbers(ids: Sequence[str], how_many: int) -> list[int]:
    taken = {number_of(each) for each in ids}
    return [number for number in range(len(taken) + max(0, how_many)) if number not in taken][: max(0, how_many)]
