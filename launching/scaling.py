"""When a role gets a worker more, and when one less: a function of what workers announce. It knows no Ray and no time.

A look is one reading of the registry; whoever looks does so at a steady pace. SLM and LLM are scaled apart, each by its
own workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fleet.announcement import Announcement
from rstitch.errors import invalid

# With less of all KV pages free, the next session may have to wait, or an idle one lose what it had computed.
_FEW_FREE = 0.1
_HOW = "Write ROLE=LOW..HIGH with commas between them, such as slm=1..4,llm=1..2."


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many workers a role has at least and at most."""

    low: int
    high: int

    def __str__(self) -> str:
        return f"{self.low}..{self.high}"


@dataclass(frozen=True, slots=True)
class Patience:
    """How many looks in a row must find the same before the fleet changes."""

    num_short: int = 5  # until there is one more
    num_idle: int = 300  # until one that idles is let go: what it held is computed again elsewhere


@dataclass(frozen=True, slots=True)
class Memory:
    """What earlier looks found of a role."""

    num_short: int = 0  # looks in a row at which it had too little
    idle: Mapping[str, int] = field(default_factory=dict)  # by worker: looks in a row at which it computed nothing


@dataclass(frozen=True, slots=True)
class Change:
    """What to do for a role: one worker more, or one less."""

    add: bool = False
    remove: str = ""  # id of the worker that goes


def step(
    memory: Memory, there: Sequence[Announcement], num_wanted: int, bounds: Bounds, patience: Patience
) -> tuple[Memory, Change]:
    """One look at a role: what to remember for the next one, and what to do now.

    Args:
        there: workers that have announced themselves and stay.
        num_wanted: these and the ones that are still starting.
    """
    if num_wanted < bounds.low:
        return Memory(), Change(add=True)
    if len(there) < num_wanted:
        return Memory(), Change()  # what it lacks may be on its way
    is_short = _is_short(there)
    idle = {each.id: memory.idle.get(each.id, 0) + 1 for each in there if not each.num_running + each.num_waiting}
    num_short = memory.num_short + 1 if is_short else 0
    if num_wanted > bounds.high:
        return Memory(num_short, idle), Change(remove=_least(there, idle))
    if num_short >= patience.num_short and num_wanted < bounds.high:
        return Memory(0, idle), Change(add=True)
    long_idle = [each for each in there if idle.get(each.id, 0) >= patience.num_idle]
    if long_idle and not is_short and num_wanted > bounds.low:
        return Memory(0, idle), Change(remove=_least(long_idle, idle))
    return Memory(num_short, idle), Change()


def _is_short(there: Sequence[Announcement]) -> bool:
    """Whether somebody waits for room, or hardly a page is free."""
    num_free = sum(each.num_free_pages for each in there)
    return any(each.num_waiting for each in there) or num_free < _FEW_FREE * sum(each.num_pages for each in there)


def _least(workers: Sequence[Announcement], idle: Mapping[str, int]) -> str:
    """The worker whose end costs least: idle for longest, then with the least to do, then the youngest."""

    def cost(each: Announcement) -> tuple[int, int, int, int]:
        return -idle.get(each.id, 0), each.num_running, each.num_sessions, -number_of(each.id)

    return min(workers, key=cost).id


def number_of(unit_id: str) -> int:
    """The number at the end of an id, such as 3 of slm-3; -1 if it has none."""
    number = unit_id.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def parse_bounds(text: str, flag: str) -> dict[str, Bounds]:
    """Reads slm=1..4,llm=1..2; of nothing it makes no bounds. Raises RstitchError that names `flag`."""
    found: dict[str, Bounds] = {}
    for word in filter(None, (each.strip() for each in text.split(","))):
        role, equals, span = word.partition("=")
        low, dots, high = span.partition("..")
        if role not in ("slm", "llm") or role in found or not (equals and dots and low.isdigit() and high.isdigit()):
            raise invalid(flag, f"{word[:40]!r} is no role with bounds, or comes twice.", _HOW)
        found[role] = Bounds(int(low), int(high))
        if not 1 <= found[role].low <= found[role].high:
            raise invalid(flag, f"{word[:40]} has no room.", "LOW is at least 1 and at most HIGH.")
    return found
