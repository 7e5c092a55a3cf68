"""What a worker measures. The engine counts for itself; the counts are read here when metrics are sent.

The sender's thread reads plain integers of the engine without asking its thread: a step may lie between two of them,
but nothing waits for anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from model_worker.engine.engine import Engine
from model_worker.engine.types import Timing
from rstitch.service import semconv
from rstitch.service.metrics import Metrics, Reading
from rstitch.service.tally import Buckets

# Bounds of a histogram in s, from 0.1 ms (an idle worker) to 13 s (one with a long queue).
_QUEUE_TIMES = [0.0001 * 2**power for power in range(18)]


# Name, unit, description, and which of the engine's counters it is; times are counted in microseconds.
_SUMS = (
    (semconv.METRIC_WORKER_COMPUTED_TOKENS, "{token}", "Tokens put through the model.", "num_computed_tokens"),
    (semconv.METRIC_WORKER_CACHED_TOKENS, "{token}", "Tokens taken over from other sessions.", "num_cached_tokens"),
    (semconv.METRIC_WORKER_CACHE_HITS, "{run}", "Runs that took tokens over.", "num_cache_hits"),
    (semconv.METRIC_WORKER_CACHE_EVICTIONS, "{page}", "Kept pages given away.", "num_cache_evictions"),
    (semconv.METRIC_WORKER_KEPT_TOKENS, "{token}", "Tokens decoded and kept.", "num_kept_tokens"),
    (semconv.METRIC_WORKER_FORWARD_TIME, "s", "Time in forwards.", "forward_us"),
    (semconv.METRIC_WORKER_EVICTIONS, "{session}", "Idle sessions whose pages were taken.", "num_evictions"),
    (semconv.METRIC_WORKER_REFUSALS, "{run}", "Runs refused for want of pages.", "num_refusals"),
    (semconv.METRIC_WORKER_GRAPH_STEPS, "{step}", "Steps that a captured graph ran.", "num_graph_steps"),
    (semconv.METRIC_WORKER_GRAPH_MISSES, "{step}", "Steps that no captured graph fitted.", "num_graph_misses"),
    (semconv.METRIC_WORKER_DELAYED_STEPS, "{step}", "Steps held back for a fuller batch.", "num_delayed_steps"),
    (semconv.METRIC_WORKER_DELAYED_TIME, "s", "How long steps were held back.", "delayed_us"),
)


class WorkerMetrics:
    """Registers one worker's instruments, most of which are read from the engine when they are sent."""

    def __init__(self, metrics: Metrics, engine: Engine) -> None:
        self._engine = engine

        metrics.sum_of(semconv.METRIC_WORKER_STEPS, "{step}", "Forwards, by sessions in them.", self._steps)
        for name, unit, description, field in _SUMS:
            metrics.sum_of(name, unit, description, partial(self._sum, field, 1e6 if unit == "s" else 1))
        metrics.gauge_of(semconv.METRIC_WORKER_PAGES, "{page}", "Pages of the KV cache.", self._pages)
        metrics.gauge_of(
            semconv.METRIC_WORKER_AVAILABLE_PAGES,
            "{page}",
            "Pages that a new session could get.",
            lambda: [(engine.capacity.num_available_pages, {})],
        )
        what = "Pages with room in layers that see a window only; none where all pages have."
        metrics.gauge_of(semconv.METRIC_WORKER_WINDOW_PAGES, "{page}", what, self._window_pages)
        what = "Slots for the states of recurrent layers."
        metrics.gauge_of(semconv.METRIC_WORKER_STATES, "{slot}", what, self._states)
        metrics.gauge_of(
            semconv.METRIC_WORKER_SESSIONS,
            "{session}",
            "Sessions held, idle ones included.",
            lambda: [(engine.capacity.num_sessions, {})],
        )
        metrics.gauge_of(
            semconv.METRIC_WORKER_RUNS, "{run}", "Runs waiting or going on.", lambda: [(engine.capacity.num_runs, {})]
        )
        metrics.gauge_of(
            semconv.METRIC_WORKER_WAITING,
            "{run}",
            "Of these, those that were not in the last step.",
            lambda: [(engine.capacity.num_waiting_runs, {})],
        )
        bounds = [2**bits / 1e6 for bits in range(len(engine.counters.num_steps_by_us) - 1)]
        what = "A step: its scheduling, its forward and what follows from it."
        metrics.histogram_of(semconv.METRIC_WORKER_STEP_DURATION, "s", what, bounds, self._step_times)
        self._queue_time = metrics.meter.create_histogram(
            semconv.METRIC_WORKER_QUEUE_TIME,
            "s",
            "The wait of a run, or of a slice that is observed, for its first step.",
            explicit_bucket_boundaries_advisory=_QUEUE_TIMES,
        )

        self._observed = metrics.meter.create_counter(
            semconv.METRIC_WORKER_OBSERVED_POSITIONS, "{position}", "Positions of given tokens that were looked at."
        )

    def record_run(self, timing: Timing, background: bool) -> None:
        """Records how long a run that is over waited for its first step."""
        self._record_queue(timing, "background" if background else "decode")

    def record_observing(self, timing: Timing) -> None:
        """Records the same of a slice that was observed."""
        self._record_queue(timing, "observe")

    def record_observed(self, num_positions: int) -> None:
        """Counts positions that a caller was told of, or that were not over its bound."""
        self._observed.add(num_positions)

    def _record_queue(self, timing: Timing, kind: str) -> None:
        self._queue_time.record(timing.queue_us / 1e6, {semconv.RSTITCH_RUN_KIND: kind})

    def _sum(self, field: str, divisor: float) -> Iterator[Reading]:
        value: int = getattr(self._engine.counters, field)
        yield value if divisor == 1 else value / divisor, {}

    def _steps(self) -> Iterator[Reading]:
        for bits, num in enumerate(self._engine.counters.num_steps_by_rows):
            low, high = 1 << bits, (2 << bits) - 1
            if num:
                yield num, {semconv.RSTITCH_BATCH: "1" if low == high else f"{low}-{high}"}

    def _step_times(self) -> Iterator[Buckets]:
        counters = self._engine.counters
        if counters.num_steps:
            yield list(counters.num_steps_by_us), counters.step_us / 1e6, {}

    def _pages(self) -> Iterator[Reading]:
        capacity = self._engine.capacity
        yield capacity.num_free_pages - capacity.num_cached_pages, {semconv.RSTITCH_STATE: "free"}
        yield capacity.num_cached_pages, {semconv.RSTITCH_STATE: "cached"}
        yield capacity.num_pages - capacity.num_free_pages, {semconv.RSTITCH_STATE: "used"}

    def _window_pages(self) -> Iterator[Reading]:
        capacity = self._engine.capacity
        return _free_and_used(capacity.num_free_window_pages, capacity.num_window_pages)

    def _states(self) -> Iterator[Reading]:
        capacity = self._engine.capacity
        return _free_and_used(capacity.num_free_states, capacity.num_states)


def _free_and_used(num_free: int, num_all: int) -> Iterator[Reading]:
    yield num_free, {semconv.RSTITCH_STATE: "free"}
    yield num_all - num_free, {semconv.RSTITCH_STATE: "used"}
