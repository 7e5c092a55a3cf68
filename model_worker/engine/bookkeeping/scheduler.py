"""Which tokens go into the next forward. No torch; it does not know what a forward is.

There is no prefill phase and no decode phase: a run's session has tokens that are not computed yet, and a step
computes some of them for many sessions at once, under a token budget. Decode rows come first, then what other runs
still lack (prompts in chunks), then background runs in the room that is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from model_worker.engine.bookkeeping.batching import Load
from model_worker.engine.bookkeeping.cost_model import CostModel
from model_worker.engine.bookkeeping.runs import Row, Run
from model_worker.engine.bookkeeping.session import Session
from model_worker.engine.bookkeeping.table import SessionTable
from model_worker.engine.errors import NoCapacity
from model_worker.engine.observing import MAX_OBSERVED, OBSERVING_STEPS
from model_worker.engine.types import Limits


@dataclass(frozen=True, slots=True)
class Schedule:
    """The rows of the next forward, and the runs that end because there is no room for them.

    A foreground run is refused. A background run yields: the tokens that it appended and kept are in the session and
    get computed when a foreground run needs them.
    """

    rows: list[Row] = field(default_factory=list)
    refused: list[tuple[Run, NoCapacity]] = field(default_factory=list)
    yielded: list[Run] = field(default_factory=list)


class Scheduler:
    """Keeps the runs in order of arrival and forms batches of them."""

    def __init__(self, table: SessionTable, limits: Limits) -> None:
        self._table = table
        self._limits = limits
        self._runs: dict[int, Run] = {}
        self._alone: dict[Run, int] = {}  # whose rows up to a position are to be in steps of their own, in order
        self.num_cached_tokens = 0  # taken over from other sessions
        self.num_cache_hits = 0  # runs that took some over
        self.costs: CostModel | None = None
        self._num_left_out = 0  # runs that were not in the last batch

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def num_waiting(self) -> int:
        """Number of runs that were not in the last batch: they wait for room, or for their turn."""
        return min(self._num_left_out, len(self._runs))

    def get(self, run_id: int) -> Run | None:
        return self._runs.get(run_id)

    def run_of(self, session: Session) -> Run | None:
        return next((run for run in self._runs.values() if run.session is session), None)

    def without_work(self) -> list[Run]:
        """Returns catch-up runs that have nothing to compute, as when they only truncate."""
        return [run for run in self._runs.values() if run.num_pending == 0]

    @property
    def load(self) -> Load:
        """What the foreground runs have to do."""
        pending = [run.num_pending for run in self._runs.values() if not run.is_background]
        decode = pending.count(1)
        other = min(sum(pending) - decode, self._limits.max_batch_tokens)
        return Load(len(pending), decode, other)

    def add(self, run: Run) -> None:
        """Begins a run; its session belongs to it until `remove`."""
        assert not run.session.running, "one run per session"
        run.session.running = True
        self._runs[run.run_id] = run

    def remove(self, run: Run) -> None:
        """Ends a run; its session is idle from now on, without a draft that was not verified."""
        del self._runs[run.run_id]
        self._alone.pop(run, None)
        if run.draft:
            self._table.truncate(run.session, run.session.held - len(run.draft))
        run.session.running = False
        self._table.touch(run.session)

    def isolate(self, run: Run, until: int) -> None:
        """Gives a run's next rows steps of their own until it has computed so many of its tokens."""
        self._alone[run] = until

    def reunite(self, run: Run) -> None:
        """Lets a run's rows be in steps with others again, once those that were not to be are computed."""
        if self._alone and run.num_computed >= self._alone.get(run, 0):
            self._alone.pop(run, None)

    def schedule(self) -> Schedule:
        """Chooses the next batch and reserves its pages. Refused and yielded runs are removed."""
        # Priorities under the token budget, older runs first within each:
        #
        #   1  decode rows and drafts         everybody in them waits for one step
        #   2  other foreground runs          prompts and what a handed-over session lacks, in chunks
        #   3  background runs                catch-up and run-ahead, as far as the step stays short
        #
        # A page that several sessions need is computed once: by the first of them in this order. The others wait for
        # the step's end and take it from there.
        #
        # When pages run short it is the other way round: idle sessions go first, then background runs, then the
        # youngest foreground run.
        schedule = Schedule()
        budget, observable = self._limits.max_batch_tokens, MAX_OBSERVED
        for run in self._runs.values():
            self._adopt(run)
        coming: set[bytes] = set()
        for run in self._in_order():
            if budget == 0:
                break
            if run.run_id not in self._runs:  # refused for the sake of an older one, or yielded
                continue
            if coming and self._table.wanted(run.session, run.session.held - run.num_asked) in coming:
                continue
            num_tokens = run.row_tokens(budget, observable)
            if run.is_background and num_tokens:
                num_tokens = self._spare_tokens(schedule.rows, run, num_tokens)
            if num_tokens == 0 or not self._make_room(run, num_tokens, schedule):
                continue
            budget -= num_tokens
            start = run.num_computed
            row = Row(run, start, num_tokens, start + num_tokens == run.session.held)
            schedule.rows.append(row)
            if run.request.observe is not None:
                observable -= row.num_asked
            if run.fills_pages:
                coming.update(self._table.coming(run.session))
        self._num_left_out = len(self._runs) - len(schedule.rows)
        return schedule

    def _adopt(self, run: Run) -> None:
        """Takes over what other sessions have computed, except for the distributions that the run asks for."""
        if run.ends_next:
            return
        before = run.num_computed
        self._table.adopt(run.session, run.session.held - run.num_asked)
        num_cached = run.num_computed - before
        if num_cached and not run.timing.num_cached_tokens:
            self.num_cache_hits += 1
        run.timing.num_cached_tokens += num_cached
        self.num_cached_tokens += num_cached

    def _in_order(self) -> list[Run]:
        if self._alone:
            return [next(iter(self._alone))]

        def key(run: Run) -> tuple[bool, bool]:  # the sort is stable, and `_runs` is in order of arrival
            return run.is_background, not run.ends_next

        return sorted(self._runs.values(), key=key)

    def _spare_tokens(self, rows: Sequence[Row], run: Run, num_tokens: int) -> int:
        """Returns how many tokens of a background run may join a step of `rows`.

        With foreground rows in it, the step gets longer by a bounded share; without, it stays short, because a decode
        that arrives waits for its end.
        """
        if self.costs is None:
            return num_tokens
        waited_for = [row for row in rows if not row.run.is_background]
        num_steps = OBSERVING_STEPS if run.request.observe is not None else 1
        alone_us = max(self._limits.background_us, num_steps * self.costs.step_us(1))
        stretched_us = (1 + self._limits.background_stretch) * self.costs.step_us(*_load(waited_for))
        bound_us = stretched_us if waited_for else alone_us
        spare = self.costs.most_tokens(*_load(rows), num_tokens, bound_us)
        # Alone it always advances: by one token, by all that its distributions are asked for in, by enough to observe.
        least = 0 if rows else min(run.least_tokens, num_tokens)
        return run.row_tokens(max(spare, least)) or least

    def _make_room(self, run: Run, num_tokens: int, schedule: Schedule) -> bool:
        """Reserves pages for a row; returns whether it has them.

        When evicting idle sessions does not suffice, background runs yield and lose their KV, then the youngest runs
        are refused, so the worker never stands still. A run may have to wait for younger ones that are in the batch
        already; it is never refused because of them.
        """
        until, sent = run.num_computed + num_tokens, run.request.end
        cuts = run.cuts(num_tokens) if self._table.has_states else ()
        if self._table.reserve(run.session, until, cuts, sent):
            return True
        in_batch = {row.run.run_id for row in schedule.rows}
        while not self._table.reserve(run.session, until, cuts, sent):
            if self._table.has_unclean:
                return False  # they are zeroed before the next step, and free then
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
            full = NoCapacity(
                "the KV cache is full and every session in it is running.",
                remedy="Try again after the delay, or start the worker with more pages (--num-pages), or more states "
                "(--num-states) where layers keep any.",
            )
            schedule.refused.append((refused, full))
            self.remove(refused)
            if refused is run:
                return False
        return True

    def _victim(self, asking: Run, in_batch: set[int]) -> Run | None:
        """Returns who gives up its pages: a background run, else the youngest foreground run younger than `asking`."""
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
    """Returns how many rows are one token, and how many tokens the others have."""
    decode = sum(row.num_tokens == 1 for row in rows)
    return decode, sum(row.num_tokens for row in rows) - decode
