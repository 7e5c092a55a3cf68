"""How many answers are being written, and how many were on average while one was. It knows no clock.

    answers being written     2 |     ______
                              1 |____|      |______
                              0 |__________________|__  time
                                a    b      a      b      (a begins, b begins, a ends, b ends)

The area below that line only grows. What it grew by while an answer was written, over the time, is the mean load of
that answer; so an event costs the same however many answers run. Likewise, for the answers whose kind the guard chose,
of either kind alone: the more an answer had of its own kind beside it, the purer is what it took.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum


class Kind(IntEnum):
    """Who writes an answer that the guard may choose: both models, or the LLM alone."""

    ROUTED = 0
    LLM_ONLY = 1


@dataclass(frozen=True, slots=True)
class Beside:
    """What was being written while an answer was.

    Attributes:
        load: mean number of answers, this one included.
        purity: share of its own kind, itself included, among the answers whose kind the guard chose; 1 for an answer
            of no kind.
    """

    load: float
    purity: float


@dataclass(slots=True)
class _Line:
    """A number that changes at moments, and the area below it."""

    num: int = 0
    area: float = 0.0  # x seconds


@dataclass(frozen=True, slots=True)
class _Mark:
    """An answer's beginning: when it was, the areas then, and what it is."""

    since: float
    areas: tuple[float, float, float]
    kind: Kind | None
    chosen: bool


@dataclass(slots=True)
class LoadMeter:
    """Counts answers as they begin and end. Times are in s, of any clock that never goes back."""

    _all: _Line = field(default_factory=_Line)
    _chosen: tuple[_Line, _Line] = field(default_factory=lambda: (_Line(), _Line()))  # by kind, of the guard's choice
    _now: float = 0.0
    _marks: dict[str, _Mark] = field(default_factory=dict)  # by session

    @property
    def num(self) -> int:
        """Counts the answers that are being written now."""
        return self._all.num

    def enter(self, session_id: str, now: float, kind: Kind | None = None, chosen: bool = False) -> None:
        """Counts an answer that begins, `chosen` if the guard could have made it another kind; a session has one."""
        self._settle(now)
        self._marks[session_id] = _Mark(now, self._areas(), kind, chosen)
        self._add(kind if chosen else None, 1)

    def leave(self, session_id: str, now: float) -> Beside:
        """Counts the end of a session's answer and returns what was written while it was."""
        self._settle(now)
        mark = self._marks.pop(session_id)
        # An answer that took no time counts what was there at that moment.
        took = now - mark.since
        load, *by_kind = (
            [(area - then) / took for area, then in zip(self._areas(), mark.areas, strict=True)]
            if took > 0
            else [self._all.num, *(line.num for line in self._chosen)]
        )
        self._add(mark.kind if mark.chosen else None, -1)
        if mark.kind is None:
            return Beside(load, 1.0)
        own = by_kind[mark.kind] + (not mark.chosen)
        return Beside(load, own / (own + by_kind[1 - mark.kind]))

    def _add(self, kind: Kind | None, num: int) -> None:
        self._all.num += num
        if kind is not None:
            self._chosen[kind].num += num

    def _areas(self) -> tuple[float, float, float]:
        return self._all.area, self._chosen[0].area, self._chosen[1].area

    def _settle(self, now: float) -> None:
        for line in (self._all, *self._chosen):
            line.area += line.num * (now - self._now)
        self._now = now
