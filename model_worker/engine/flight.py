"""A step on its way, and what its time is added to. It knows neither what is computed nor what comes of it."""

from __future__ import annotations

from dataclasses import dataclass

from model_worker.engine.bookkeeping.runs import Row
from model_worker.engine.counters import Counters
from model_worker.engine.forward.runner import Launched
from model_worker.engine.types import Event


@dataclass(slots=True)
class Flight:
    """A step on its way: launched and not waited for. Times are by time.perf_counter()."""

    # What of it falls into which part of a run's Timing; between two steps it waits. What is put down of the step
    # before is done while the device computes, and so adds to no time but its own:
    #
    #   begin ... launched_at ............................. read_at ...... end
    #   |- host --|-- launch --|-- before --|--- waiting ---|-- commit --|
    #                                                                              before: `settle` of the step before,
    #             |--------------- forward -----------------|--- host ---|         its events on their way

    begin: float
    events: list[Event]  # of runs that ended before its forward
    rows: list[Row]
    launched: Launched | None = None  # None: there is nothing to compute, or it failed
    launched_at: float = 0.0
    read_at: float = 0.0
    end: float = 0.0


def account(flight: Flight, counters: Counters) -> None:
    """Adds the time of a step that has ended to the counters and to its runs."""
    # Also to runs that ended in it: their events, which are not sent yet, carry the same Timing object.
    assert flight.launched is not None, "a step that computed something"
    forward_us = _us(flight.read_at - flight.launched_at)
    step_us = _us(flight.end - flight.begin)
    host_us = step_us - forward_us
    counters.num_steps += 1
    counters.num_steps_by_us[min(max(0, step_us - 1).bit_length(), len(counters.num_steps_by_us) - 1)] += 1
    counters.step_us += step_us
    counters.num_steps_by_rows[len(flight.rows).bit_length() - 1] += 1
    counters.forward_us += forward_us
    counters.num_graph_steps += flight.launched.graphed is True
    counters.num_graph_misses += flight.launched.graphed is False
    for row in flight.rows:
        timing = row.run.timing
        if timing.num_steps == 0:
            timing.queue_us = _us(flight.begin - row.run.arrived)
        timing.num_steps += 1
        timing.forward_us += forward_us
        timing.host_us += host_us
        # A run that was superseded meanwhile has ended later than the step.
        timing.total_us = max(timing.total_us, _us(flight.end - row.run.arrived))
        timing.num_computed_tokens += row.num_tokens
        counters.num_computed_tokens += row.num_tokens


def _us(seconds: float) -> int:
    return int(seconds * 1e6)
