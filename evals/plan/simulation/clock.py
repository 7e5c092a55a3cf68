"""Events in the order of their times. It knows nothing of what they are."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

Event = Callable[[float], None]


class Clock:
    """Runs events; those of one time in the order in which they were asked for, so that a run repeats exactly."""

    def __init__(self) -> None:
        self.now = 0.0
        self.num_events = 0
        self._events: list[tuple[float, int, Event]] = []
        self._numbers = count()

    def at(self, time: float, event: Event) -> None:
        """Has something done at a time, in seconds, which it is told."""
        heappush(self._events, (time, next(self._numbers), event))

    def every(self, period: float, begin: float, event: Event) -> None:
        """Has something done again and again."""

        def again(now: float) -> None:
            event(now)
            self.at(now + period, again)

        self.at(begin, again)

    def run(self, until: float) -> None:
        """Runs all events before a time."""
        events = self._events
        while events and events[0][0] < until:
            self.now, _, event = heappop(events)
            self.num_events += 1
            event(self.now)
        self.now = until
