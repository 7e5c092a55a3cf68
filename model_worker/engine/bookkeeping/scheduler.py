"""Which tokens go into the next forward. No torch; it does not know what a forward is.

There is no prefill phase and no decode phase: a run's session has tokens that are not computed yet, and a step
computes some of them for many sessions at once, under a token budget. Decode rows come first, then what other runs
still lack (prompts in chunks), then background runs in the room that is left.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from model_worker.engine.bookkeeping.batching import Load
from model_worker.engine.bookkeeping.cost_model import CostModel
from model_worker.engine.bookkeeping.session import Session, SessionTable
from model_worker.engine.bookkeeping.signals import SignalMeter
from model_worker.engine.errors import NoCapacity
from model_worker.engine.types import Limits, RunRequest, Signal, Timing


@dataclass(slots=True, eq=False)
class Run:
    """A request in the engine. `run_id` grows with arrival: a smaller one is older.

    The `draft` is at the end of the session's tokens until it is verified.
    """

    run_id: int
    request: RunRequest
    session: Session
    draft: Sequence[int] = ()
    meter: SignalMeter | None = None  # None: the hand-off, if there is one, compares the entropy
    num_kept: int = 0
    num_consultations: int = 0
    timing: Timing = field(default_factory=Timing)
    arrived: float = field(default_factory=time.perf_counter)

    @property
    def num_computed(self) -> int:
        """Tokens of its session that it need not compute."""
        return self.session.num_computed

    @property
    def num_pending(self) -> int:
        """Tokens that its next row may have."""
        return self.session.num_pending

    def computed(self, num_tokens: int) -> None:
        """Its row of so many tokens is computed."""
        self.session.num_computed += num_tokens

    @property
    def is_background(self) -> bool:
        """Nobody waits for it."""
        return self.request.is_background

    @property
    def wants_token(self) -> bool:
        """Whether the distribution after the last token is asked for."""
        return self.request.wants_token

    @property
    def num_asked(self) -> int:
        """Distributions asked for, after the last tokens; they are of one row."""
        return len(self.draft) + 1 if self.wants_token else 0

    def row_tokens(self, room: int) -> int:
        """The tokens of its next row: all that are left, or a chunk before those whose distributions are asked for."""
        pending = self.num_pending
        return pending if pending <= room else max(0, min(room, pending - self.num_asked))

    @property
    def needs_margin(self) -> bool:
        """Whether its signal is the margin."""
        handoff = self.request.handoff
        return handoff is not None and handoff.signal is Signal.MARGIN


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens [start, start + num_tokens) of a run's session; `is_last` if none is left after them."""

    run: Run
    start: int
    num_tokens: int
    is_last: bool


@dataclass(frozen=True, slots=True)
class Schedule:
    """The rows of the next forward, and the runs that end for want of room.

    A foreground run is refused. A background run yields: the tokens that it appended and kept are in the session and
    get computed when a foreground run needs them.
    """

    rows: list[Row] = field(default_factory=list)
    refused: list[tuple[Run, NoCapacity]] = field(default_factory=list)
    yielded: list[Run] = field(default_factory=list)


class Scheduler:
    """Keeps the runs in order of arrival and forms batches of them.

    Attributes:
        costs: what a step takes; None: not known, and background rows are bounded by the token budget alone.
    """

    def __init__(self, table: SessionTable, limits: Limits) -> None:
        self._table = table
        self._limits = limits
        self._runs: dict[int, Run] = {}
        self.costs: CostModel | None = None

    def __len__(self) -> int:
        return len(self._runs)

    def get(self, run_id: int) -> Run | None:
        """The run, or None if it has ended."""
        return self._runs.get(run_id)

    def runs_of(self, session: Session) -> list[Run]:
        """The session's run, if one is going on."""
        return [run for run in self._runs.values() if run.session is session]

    def without_work(self) -> list[Run]:
        """Catch-up runs whose tokens are all computed."""
        return [run for run in self._runs.values() if run.num_pending == 0]

    @property
    def load(self) -> Load:
        """What somebody waits for."""
        pending = [run.num_pending for run in self._runs.values() if not run.is_background]
        decode = pending.count(1)
        other = min(sum(pending) - decode, self._limits.max_batch_tokens)
        return Load(len(pending), decode, other)

    def add(self, run: Run) -> None:
        """Begins a run; its session is held for it until `remove`."""
        assert not run.session.running, "one run per session"
        run.session.running = True
        self._runs[run.run_id] = run

    def remove(self, run: Run) -> None:
        """Ends a run; its session is idle from now on, without a draft that was not verified."""
        del self._runs[run.run_id]
        if run.draft:
            self._table.truncate(run.session, run.session.held - len(run.draft))
        run.session.running = False
        self._table.touch(run.session)

    def schedule(self) -> Schedule:
        """Chooses the next batch and reserves its pages. Refused and yielded runs are removed."""
        schedule = Schedule()
        budget = self._limits.max_batch_tokens
        for run in self._in_order():
            if budget == 0:
                break
            if run.run_id not in self._runs:  # refused for the sake of an older one, or yielded
                continue
            num_tokens = run.row_tokens(budget)
            if run.is_background and num_tokens:
                num_tokens = self._spare_tokens(schedule.rows, run, num_tokens)
            if num_tokens == 0 or not self._make_room(run, num_tokens, schedule):
                continue
            budget -= num_tokens
            start = run.num_computed
            schedule.rows.append(Row(run, start, num_tokens, start + num_tokens == run.session.held))
        return schedule

    def _in_order(self) -> list[Run]:
        """Decode rows and drafts, then other foreground runs, then background ones; older first."""

        def key(run: Run) -> tuple[bool, bool]:
            return run.is_background, run.num_pending > max(run.num_asked, 1)

        return sorted(self._runs.values(), key=key)

    def _spare_tokens(self, rows: Sequence[Row], run: Run, num_tokens: int) -> int:
        """Of the tokens of a background run's next row, those that may go into a step of `rows`: with foreground rows
        in it, the step gets longer by a bounded share; without, it stays short, for a decode that arrives waits for
        its end.
        """
        if self.costs is None:
            return num_tokens
        waited_for = [row for row in rows if not row.run.is_background]
        alone_us = max(self._limits.background_us, self.costs.step_us(1))
        bound_us = (1 + self._limits.background_stretch) * self._step_us(waited_for) if waited_for else alone_us
        spare = self.costs.most_tokens(*_load(rows), num_tokens, bound_us)
        least = run.num_asked if run.num_pending == run.num_asked else 1
        return run.row_tokens(spare) or (0 if rows else least)

    def _step_us(self, rows: Sequence[Row]) -> float:
        assert self.costs is not None
        return self.costs.step_us(*_load(rows))

    def _make_room(self, run: Run, num_tokens: int, schedule: Schedule) -> bool:
        """Reserves pages for a row. When idle sessions do not suffice, background runs yield and lose their KV, then
        the youngest runs are refused, so the worker never stands still. A run may have to wait for younger ones that
        are in the batch already; it is never refused for their sake.
        """
        until = run.num_computed + num_tokens
        if self._table.reserve(run.session, until):
            return True
        in_batch = {row.run.run_id for row in schedule.rows}
        while not self._table.reserve(run.session, until):
            if run.is_background:
                schedule.yielded.append(run)
                self.remove(run)
                return False
            victim = self._victim(run, in_batch)
            if victim is None and any(run_id > run.run_id for run_id in in_batch):
                return False  # a younger run is in this batch already: wait for it
            if victim is not None and victim.is_background:
                self._table.uncompute(victim.session, 0)
                schedule.yielded.append(victim)
                self.remove(victim)
                continue
            refused = victim or run
            schedule.refused.append((refused, _no_capacity()))
            self.remove(refused)
            if refused is run:
                return False
        return True

    def _victim(self, asking: Run, in_batch: set[int]) -> Run | None:
        """A background run with pages, else the youngest foreground run with pages that is younger than `asking`."""
        candidates = [
            run
            for run in self._runs.values()
            if run.session.pages
            and run.run_id not in in_batch
            and run is not asking
            and (run.is_background or run.run_id > asking.run_id)
        ]
        return max(candidates, key=lambda run: (run.is_background, run.run_id), default=None)


def _load(rows: Sequence[Row]) -> tuple[int, int]:
    """Decode rows, and the tokens of the others."""
    decode = sum(row.num_tokens == 1 for row in rows)
    return decode, sum(row.num_tokens for row in rows) - decode


def _no_capacity() -> NoCapacity:
    return NoCapacity(
        "the KV cache is full and every session in it is running.",
        remedy="Try again after the delay, or start the worker with more pages (--num-pages).",
    )
