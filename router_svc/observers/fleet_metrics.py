"""What the router counts of its fleet: workers by how they are, and sessions that left one. It decides nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from router_svc.trajectory.types import Model
from router_svc.workers.fleet import Fleet
from rstitch.service import semconv
from rstitch.service.metrics import Metrics, Reading

_STATES = ("ready", "draining", "refused", "lost")


class FleetMetrics:
    """The instruments of one fleet, as one router sees it."""

    def __init__(self, metrics: Metrics, fleet: Fleet) -> None:
        self._fleet = fleet
        what = "Workers of a model that the router knows, by how they are."
        metrics.gauge_of(semconv.METRIC_FLEET_MEMBERS, "{worker}", what, self._members)
        what = "Sessions that left a worker of a model for another."
        self._moves = metrics.meter.create_counter(semconv.METRIC_FLEET_MOVES, "{session}", what)
        fleet.on_move = self._moved

    def _moved(self, model: Model, reason: str) -> None:
        self._moves.add(1, {semconv.RSTITCH_MODEL: model.label, semconv.RSTITCH_REASON: reason})

    def _members(self) -> Iterator[Reading]:
        """Of each state, so that one that nobody is in any more is told to be empty."""
        for model in Model:
            counts = Counter(member.state for member in self._fleet.members() if member.model is model)
            for state in _STATES:
                yield counts[state], {semconv.RSTITCH_MODEL: model.label, semconv.RSTITCH_STATE: state}
