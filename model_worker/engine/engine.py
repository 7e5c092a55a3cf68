"""The stepping engine: tokens in, tokens and their uncertainty out, for many sessions at once.

`step()` is the system in three calls: schedule, run, commit. Run is two, `launch` and `wait`: on a device that computes
by itself, the host puts down between them what the step before has left. One thread owns an engine. It knows no text,
no network and no other model.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from model_worker.engine.bookkeeping.admission import check_fork, check_held, check_idle, check_request
from model_worker.engine.bookkeeping.batching import Load
from model_worker.engine.bookkeeping.cost_model import CostModel
from model_worker.engine.bookkeeping.masks import MaskTable
from model_worker.engine.bookkeeping.pages import PagePool
from model_worker.engine.bookkeeping.room import available_pages
from model_worker.engine.bookkeeping.runs import Run
from model_worker.engine.bookkeeping.scheduler import Schedule, Scheduler
from model_worker.engine.bookkeeping.session import Session
from model_worker.engine.bookkeeping.signals import SignalMeter
from model_worker.engine.bookkeeping.states import NO_STATES, StateTable
from model_worker.engine.bookkeeping.table import SessionTable
from model_worker.engine.bookkeeping.windows import WindowMap
from model_worker.engine.commit import Committer
from model_worker.engine.counters import Capacity, Counters
from model_worker.engine.errors import RanksLost, SessionClosed
from model_worker.engine.flight import Flight, account
from model_worker.engine.forward.invariant_check import check_invariance
from model_worker.engine.forward.kv_cache import most_keys
from model_worker.engine.forward.loader import LoadedModel
from model_worker.engine.forward.parity import (
    check_parity,
    parity_request,
    parity_session,
    parity_tokens,
    reference_logits,
)
from model_worker.engine.forward.runner import Runner
from model_worker.engine.forward.state_limits import limits_with_states
from model_worker.engine.types import Event, FinishReason, ForkRequest, Limits, RunFailed, RunRequest, Signal


class Engine:
    """A model and the sessions that it continues.

    `on_progress` is told how many of how many steps have been captured, where the device captures any. The constructor
    raises UnsupportedModel if the engine's path does not give the model's own logits.
    """

    # The way of a run: submit -> [ launch: schedule, run -> wait: commit ] once per step -> finish. A session outlives
    # its runs; between two of them it can be evicted, and then holds nothing.

    _run_type: type[Run] = Run
    _scheduler_type: type[Scheduler] = Scheduler

    def __init__(
        self, loaded: LoadedModel, limits: Limits, on_progress: Callable[[int, int], None] = lambda done, of: None
    ) -> None:
        name = type(loaded.module).__name__
        limits = limits_with_states(name, limits) if loaded.states else replace(limits, num_states=0)
        self.limits = limits
        self.counters = Counters()
        self._windows = _windows(loaded, limits)
        side_by_side = limits.prefix_cache != "share"
        self._pool = PagePool(limits.num_pages, limits.page_size, side_by_side=side_by_side, windows=self._windows)
        self._states = StateTable(limits.num_states) if loaded.states else NO_STATES
        self._table = SessionTable(self._pool, limits.prefix_cache, self._states)
        self._scheduler = self._scheduler_type(self._table, limits)
        self._run_ids = itertools.count(1)
        self._masks = MaskTable(limits.vocab_size)
        self._runner = self._verified_runner(loaded, on_progress)
        self._committer = Committer(self._scheduler, self._table, limits, loaded.stop_tokens, self.counters)
        self._unsettled: Flight | None = None

    @property
    def is_idle(self) -> bool:
        return len(self._scheduler) == 0

    @property
    def overlaps(self) -> bool:
        """Whether the device computes by itself between `launch` and `wait`; else `launch` returns when it is over."""
        return self._runner.overlaps

    @property
    def num_cards(self) -> int:
        """Among how many cards, each with a process of its own, the model is divided."""
        return 1

    @property
    def capacity(self) -> Capacity:
        """Says what room there is and who is in it. Any thread may ask: a step may lie between two of the figures."""
        return Capacity(
            page_size=self.limits.page_size,
            num_pages=self.limits.num_pages,
            num_free_pages=self._pool.num_free,
            num_cached_pages=self._pool.num_kept,
            num_shared_pages=self._pool.num_shared,
            num_sessions=len(self._table),
            num_runs=len(self._scheduler),
            max_batch_tokens=self.limits.max_batch_tokens,
            num_window_pages=self._windows.num_rooms if self._windows is not None else 0,
            num_free_window_pages=self._windows.num_spare if self._windows is not None else 0,
            num_states=self._states.num_slots,
            num_free_states=self._states.num_free,
            num_available_pages=available_pages(self._table, self._pool, self._states),
            num_waiting_runs=self._scheduler.num_waiting,
        )

    @property
    def path(self) -> str:
        """Says how steps run, which with limits at "auto" depends on the device and the model."""
        return self._runner.path

    @property
    def captured(self) -> dict[str, float]:
        """What capturing steps took at the start: how many, time and memory; empty where none is captured."""
        graphs = self._runner.graphs
        return (
            {} if graphs is None else {"graphs": len(graphs), "graphs_s": graphs.seconds, "graphs_mb": graphs.megabytes}
        )

    def warm_up(self) -> None:
        """Makes what torch keeps for each thread that computes, in the calling one: call it where steps will be run."""
        self._runner.warm_up()

    @property
    def load(self) -> Load:
        return self._scheduler.load

    @property
    def costs(self) -> CostModel | None:
        """What a step takes; None if it was not measured."""
        return self._scheduler.costs

    @costs.setter
    def costs(self, costs: CostModel | None) -> None:
        self._scheduler.costs = costs

    def submit(self, request: RunRequest, arrived: float | None = None) -> int:
        """Accepts a run and returns its id; its events come out of `step()`.

        It `arrived` by time.perf_counter(), now if None. Raises an EngineError, with every session unchanged, if the
        request cannot be right.
        """
        check_request(request, self.limits)
        known = self._table.get(request.session_id) or Session(request.session_id)
        check_idle(known)
        check_held(request, known)
        session = self._table.open(request.session_id, request.cache_salt)
        self._table.truncate(session, request.position)
        session.tokens.extend(request.tokens)
        run = self._run_type(next(self._run_ids), request, session, arrived=arrived or time.perf_counter())
        # As much of a draft as can be kept with one token of the model's own after it, and as fits one forward.
        room = min(request.max_tokens, self.limits.context_length - request.end, self.limits.max_batch_tokens)
        run.draft = request.draft[: max(0, room - 1)]
        session.tokens.extend(run.draft)
        if request.observe is not None:
            self._table.uncompute(session, request.observe.start - 1)
        elif run.num_pending < run.num_asked or run.draft:
            # Logits are not kept. Whoever asks for the distribution after a token that is computed already has that
            # token computed again: num_computed goes back to held - num_asked.
            self._table.uncompute(session, session.held - run.num_asked)
        self._table.keep_state(session)
        if request.handoff is not None and request.handoff.signal is not Signal.ENTROPY:
            run.meter = SignalMeter(request.handoff)
        if request.masked_tokens and run.num_asked:
            run.mask = self._masks.of(request.masked_tokens)
        self._scheduler.add(run)
        return run.run_id

    def supersede(self, run_id: int) -> list[Event]:
        """Ends a run where it stands; what it appended and kept stays in the session. An ended run is left alone."""
        run = self._scheduler.get(run_id)
        return [] if run is None else [self._committer.finish(run, FinishReason.SUPERSEDED)]

    def cancel(self, run_id: int) -> None:
        """Ends a run without an event; its session stays, idle."""
        run = self._scheduler.get(run_id)
        if run is not None:
            self._scheduler.remove(run)

    def close_session(self, session_id: str) -> tuple[int, list[Event]]:
        """Forgets a session; a run of it that is going on fails. Returns how many tokens it held, and the events."""
        session = self._table.get(session_id)
        if session is None:
            return 0, []
        events: list[Event] = []
        if (run := self._scheduler.run_of(session)) is not None:
            self._scheduler.remove(run)
            closed = SessionClosed(
                "the session was closed during the run.", remedy="To go on, send all tokens from position 0."
            )
            events.append(RunFailed(run.run_id, closed))
        held = session.held
        self._table.close(session)
        return held, events

    def fork_session(self, fork: ForkRequest) -> tuple[int, int]:
        """Makes a session that begins as another does, KV included; no forward is run.

        A session of this id is replaced. Returns how many tokens the new one holds, and of how many it has the KV: what
        the source has not computed, or what there is no room for, is computed when it is needed. Raises an EngineError,
        with every session unchanged, if the request cannot be right.
        """
        source, known = self._table.get(fork.source_id), self._table.get(fork.session_id)
        run = self._scheduler.run_of(source) if source is not None else None
        num_held = source.held - (len(run.draft) if run is not None else 0) if source is not None else 0
        check_fork(fork, source, num_held)
        if known is not None:
            check_idle(known)
        assert source is not None
        self._clean()
        made = self._table.fork(source, fork.session_id, fork.position)
        self._runner.copy_pages(self._table.take_copies())
        return made.held, made.num_computed

    def step(self) -> list[Event]:
        """Runs the model once on what is most urgent; returns what came of it."""
        events = self.wait(self.launch())
        self.settle()
        return events

    def launch(self) -> Flight:
        """Begins a step: schedules it and tells the device to compute it. Nothing else may be asked before `wait`."""
        flight = Flight(time.perf_counter(), [], [])
        self._clean()
        schedule = self._scheduler.schedule()
        # Pages that sessions get copies of hold their content only until the forward, which may write to them.
        self._runner.copy_pages(self._table.take_copies())
        flight.events += self._end_without_row(schedule)
        if not schedule.rows:
            return flight
        flight.rows, flight.launched_at = schedule.rows, time.perf_counter()
        try:
            flight.launched = self._runner.launch(schedule.rows)
        except (torch.AcceleratorError, RanksLost):  # the device is lost to this process: no later step could be right
            raise
        except Exception as error:  # noqa: BLE001 - whatever a model may raise: these runs fail, others go on
            flight.events += self._committer.fail(schedule.rows, error)
        return flight

    def wait(self, flight: Flight) -> list[Event]:
        """Ends a step once the device is done with it; returns what came of it.

        The times that these events tell are complete after `settle`, which can wait until the next step is launched.
        """
        self.settle()
        if flight.launched is None:
            return flight.events
        try:
            outcome = self._runner.wait(flight.launched)
            spoilt = flight.launched.spoilt()
        except (torch.AcceleratorError, RanksLost):  # as in `launch`: a device reports some of its errors only now
            raise
        except Exception as error:  # noqa: BLE001 - likewise
            return flight.events + self._committer.fail(flight.rows, error)
        flight.read_at = time.perf_counter()
        events = flight.events + self._committer.commit(flight.rows, outcome, spoilt)
        flight.end = time.perf_counter()
        self._unsettled = flight
        return events

    def settle(self) -> None:
        """Adds the last step's time to the counters and to its runs, unless that is done."""
        flight, self._unsettled = self._unsettled, None
        if flight is not None:
            account(flight, self.counters)

    def check_integrity(self) -> None:
        """Raises AssertionError if a page is leaked or a session's books are wrong."""
        self._table.check_integrity()

    def _end_without_row(self, schedule: Schedule) -> list[Event]:
        """Returns the events of runs that end before this step's forward."""
        events: list[Event] = [RunFailed(run.run_id, error) for run, error in schedule.refused]
        events += [self._committer.end_event(run, FinishReason.LENGTH) for run in schedule.yielded]
        events += [self._committer.finish(run, FinishReason.LENGTH) for run in self._scheduler.without_work()]
        self.counters.num_refusals += len(schedule.refused)
        self.counters.num_evictions = self._table.num_evictions
        self.counters.num_cache_hits = self._scheduler.num_cache_hits
        self.counters.num_cached_tokens = self._scheduler.num_cached_tokens
        self.counters.num_cache_evictions = self._pool.num_dropped
        return events

    def _clean(self) -> None:
        """Zeroes what a forward left infinities or NaN in: a masked slot is read all the same, and must be finite."""
        self._runner.wipe(self._pool.unclean)
        self._pool.cleaned()

    def _new_run(self, request: RunRequest, session: Session) -> Run:
        return self._run_type(0, request, session)

    def _new_runner(self, loaded: LoadedModel, on_progress: Callable[[int, int], None]) -> Runner:
        return Runner(loaded, self.limits, on_progress, self._windows)

    def _verified_runner(self, loaded: LoadedModel, on_progress: Callable[[int, int], None]) -> Runner:
        """Returns a runner whose logits are the model's own."""
        name = type(loaded.module).__name__
        tokens = parity_tokens(loaded, self.limits)
        reference = reference_logits(loaded, tokens)
        runner = self._new_runner(loaded, on_progress)
        most = self.limits.max_batch_tokens
        with parity_session(self._table, tokens) as session:
            check_parity(name, runner, self._table, self._run_type(0, parity_request(tokens), session), reference, most)
        if self.limits.batch_invariant:
            check_invariance(name, runner, self._table, self.limits, self._new_run)
        return runner


def _windows(loaded: LoadedModel, limits: Limits) -> WindowMap | None:
    """Returns the rooms of layers that see a window only; None if they have one for every page."""
    if not limits.num_window_pages:
        return None
    return WindowMap(limits.num_pages, limits.num_window_pages, limits.page_size, most_keys(loaded.shapes))
