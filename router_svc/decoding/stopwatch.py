"""Where an answer's time goes as the router sees it, kept in the answer's usage. It knows neither workers nor store."""

from __future__ import annotations

from collections.abc import Callable

from router_svc.trajectory.types import Model
from router_svc.trajectory.usage import Usage


class Stopwatch:
    """Of one answer. Between two runs that decode the router is at work, or waits for the store.

    Args:
        usage: of the answer so far; updated.
        started: when the request came, by `clock`.
        claim_s: how long the store then took to give the session.
        clock: monotonic, in s.
    """

    def __init__(self, usage: Usage, started: float, claim_s: float, clock: Callable[[], float]) -> None:
        self._usage = usage
        self.now = clock
        self._started = started - usage.total_time_us / 1e6
        self._idle_since = started + claim_s  # no run is going on that decodes
        usage.breakdown.store_us += int(claim_s * 1e6)

    def since_us(self, moment: float) -> int:
        """Microseconds from a moment until now."""
        return int((self.now() - moment) * 1e6)

    def stop(self) -> None:
        """Brings the total time up to now."""
        self._usage.total_time_us = self.since_us(self._started)

    def end(self) -> None:
        """All but the end is stored: since the last run only the store was waited for."""
        self._usage.breakdown.store_us += self.since_us(self._idle_since)
        self.stop()

    def run_begins(self) -> float:
        """A run that decodes begins: until now the router was at work. Returns the time."""
        now = self.now()
        self._usage.breakdown.routing_us += int((now - self._idle_since) * 1e6)
        return now

    def run_is_over(self) -> None:
        """No run is going on that decodes."""
        self._idle_since = self.now()

    def had_the_pen(self, model: Model, since: float) -> float:
        """A model was waited for, since a moment until now. Returns the time."""
        now = self.now()
        took_us = int((now - since) * 1e6)
        if model is Model.SLM:
            self._usage.slm_time_us += took_us
        else:
            self._usage.llm_time_us += took_us
        return now

    def waited_for_store(self, since: float) -> float:
        """The journal had no room, since a moment until now. Returns for how long, in s."""
        waited = self.now() - since
        self._usage.breakdown.store_us += int(waited * 1e6)
        return waited
