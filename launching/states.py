"""What a fleet looks like at a moment, as values that actors send. They know no Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fleet.announcement import Announcement


@dataclass(frozen=True, slots=True)
class ProgramState:
    """One process of a unit."""

    name: str
    address: str
    pid: int | None  # None: it does not run at the moment
    is_listening: bool
    num_starts: int
    why: str  # it ended last; "" if it never did


@dataclass(frozen=True, slots=True)
class UnitState:
    """A unit; without programs as long as its actor does not say how they are."""

    id: str
    role: str
    node: str = ""  # its id in Ray; "": not placed
    num_cards: float = 0
    programs: tuple[ProgramState, ...] = ()
    waits_for: str = ""  # what Ray lacks to place it

    @property
    def num_restarts(self) -> int:
        return sum(program.num_starts - 1 for program in self.programs)

    @property
    def why(self) -> str:
        """Why something of it does not run, or was started again; "" if nothing is known."""
        return next((program.why for program in self.programs if program.why), "")


@dataclass(frozen=True, slots=True)
class FleetState:
    """All units, and what the workers among them announce in Redis."""

    units: tuple[UnitState, ...]
    announced: Mapping[str, Announcement] = field(default_factory=dict)  # by worker id
    redis_error: str = ""  # why nothing is known of announcements

    def is_ready(self, unit: UnitState) -> bool:
        """Whether a unit works: its programs serve, and a worker has announced itself where it serves."""
        serves = bool(unit.programs) and all(program.is_listening for program in unit.programs)
        if unit.role not in ("slm", "llm"):
            return serves
        announced = self.announced.get(unit.id)
        return serves and announced is not None and announced.address == unit.programs[0].address
