"""A worker that steps: rows that decode, prompts that are computed first, catch-up that rides along.

Steps between two events are alike, so they are taken at once: what comes meanwhile joins at the end of the step that
runs. It knows no session and no router.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush

from evals.plan.fleet import Model
from evals.plan.simulation.clock import Clock

# As a worker's --background-stretch and --background-ms, and the most tokens of one step.
_STRETCH, _ALONE_S, _BUDGET = 0.25, 0.005, 512
_PAGE = 16  # tokens
_MARGINAL = 64  # other tokens, by which it is found out what one takes


@dataclass(slots=True, eq=False)
class CatchUp:
    """Tokens of a session that are computed in the background; what is left when it begins to write is fed to it."""

    left: float = 0.0
    is_queued: bool = False


@dataclass(slots=True, eq=False)
class Run:
    """A model writes for a session: `feed` tokens are computed first, then so many steps follow.

    Attributes:
        context: tokens before it, those to be fed included.
        behind: what was to be computed in the background.
        done: what happens at its end.
        lost: what happens if its worker dies: told how many steps it had taken.
    """

    feed: float
    steps: int
    context: int
    behind: CatchUp
    done: Callable[[float], None]
    lost: Callable[[float, int], None]


class Worker:
    """One worker of a role, of a clock.

    Attributes:
        num_sessions: bound to it; others count them.
        life: changes when it dies: what it held before is gone.
        said: what it announced last: when, sessions, free pages, whether it drains.
    """

    def __init__(self, name: str, model: Model, clock: Clock) -> None:
        self.id = name
        self.is_alive, self.is_draining = True, False
        self.num_sessions = 0
        self.life = 0
        self.said = (-math.inf, 0, 0, False)
        self._model = model
        self._clock = clock
        self._marginal: dict[int, tuple[float, float]] = {}
        self._forget()

    def _forget(self) -> None:
        self._rows: list[tuple[int, int, Run]] = []  # by the step at which they end
        self._incoming: list[Run] = []
        self._feeding: deque[Run] = deque()
        self._waiting: deque[Run] = deque()
        self._behind: deque[CatchUp] = deque()
        self._background = 0.0  # tokens of all of them
        self._context = 0  # of all rows
        self._step = 0  # steps taken before `_since`
        self._since = 0.0
        self._step_s = 0.0
        self._num_steps = 0  # of the stretch that runs; 0: it has nothing to do
        self._fed = 0.0  # tokens of prompts, and of catch-up, in each step of the stretch
        self._rode = 0.0
        self._version = 0
        self._number = 0

    @property
    def num_runs(self) -> int:
        """Rows, and whatever waits to be one."""
        return len(self._rows) + len(self._feeding) + len(self._waiting) + len(self._incoming)

    def announce(self, now: float) -> None:
        """Says how full it is."""
        free = max(0, self._model.kv_tokens - self._context) // _PAGE
        self.said = (now, self.num_sessions, free, self.is_draining)

    def start(self, now: float, run: Run) -> None:
        """Takes a run, at the end of the step that runs."""
        self._incoming.append(run)
        self._interrupt(now)

    def catch_up(self, now: float, behind: CatchUp, tokens: int) -> None:
        """Computes more tokens of a session in the background, after those of others."""
        behind.left += tokens
        self._background += tokens
        if not behind.is_queued:
            behind.is_queued = True
            self._behind.append(behind)
        self._interrupt(now)

    def forget(self, behind: CatchUp) -> float:
        """Computes them no more. Returns how many are left."""
        left, behind.left = behind.left, 0.0
        self._background = max(0.0, self._background - left)
        return left

    def die(self, now: float) -> list[tuple[Run, int]]:
        """Loses everything. Returns its runs, and how many steps each had taken."""
        taken = self._step + self._steps_before(now)
        lost = [(run, run.steps - (end - min(end, taken))) for end, _, run in self._rows]
        lost += [(run, 0) for run in (*self._feeding, *self._waiting, *self._incoming)]
        version = self._version
        self._forget()
        self._version = version + 1
        self.is_alive, self.is_draining = False, False
        self.num_sessions = 0
        self.life += 1
        return lost

    def come_back(self) -> None:
        """Takes sessions again, with an empty cache, as a process that was started anew."""
        self.is_alive, self.is_draining = True, False

    def _steps_before(self, now: float) -> int:
        if not self._num_steps:
            return 0
        return min(self._num_steps, int((now - self._since) / self._step_s + 1e-9))

    def _interrupt(self, now: float) -> None:
        """Has the stretch end with the step that runs, if it would not anyhow."""
        if not self._num_steps:
            self._since = now
            self._end(now)
            return
        steps = self._steps_before(now) + 1
        if steps < self._num_steps:
            self._schedule(steps)

    def _schedule(self, steps: int) -> None:
        self._num_steps = steps
        self._version += 1
        version = self._version

        def end(now: float) -> None:
            if version == self._version:
                self._end(now)

        self._clock.at(self._since + steps * self._step_s, end)

    def _end(self, now: float) -> None:
        """A stretch has ended: counts what it did, lets in who came, and begins the next one."""
        steps, self._num_steps = self._num_steps, 0
        self._step += steps
        self._since = now
        self._context += steps * len(self._rows)
        self._ride(steps * self._rode)
        ended = []
        while self._rows and self._rows[0][0] <= self._step:
            _, _, run = heappop(self._rows)
            self._context -= run.context + run.steps
            ended.append(run)
        ended += self._feed(self._fed if steps else 0.0)
        self._waiting.extend(self._incoming)
        self._incoming.clear()
        while self._waiting and len(self._rows) + len(self._feeding) < self._model.max_rows:
            run = self._waiting.popleft()
            run.feed += self.forget(run.behind)
            if run.feed > 1:
                self._feeding.append(run)
            else:
                self._decode(run, run.steps)
        self._begin()
        for run in ended:
            run.done(now)

    def _ride(self, tokens: float) -> None:
        """So many tokens of catch-up were computed, of who came first."""
        while tokens > 0 and self._behind:
            behind = self._behind[0]
            part = min(tokens, behind.left)
            tokens -= part
            behind.left -= part
            self._background -= part
            if behind.left < 1e-6:
                behind.left, behind.is_queued = 0.0, False
                self._behind.popleft()
        if not self._behind:
            self._background = 0.0

    def _feed(self, tokens: float) -> list[Run]:
        """Prompts are computed, in turn. Returns the runs that end with that: its last token's step is their first."""
        ended = []
        while tokens and self._feeding:
            run = self._feeding[0]
            part = min(tokens, run.feed)
            tokens -= part
            run.feed -= part
            if run.feed < 1e-6:
                self._feeding.popleft()
                if run.steps > 1:
                    self._decode(run, run.steps - 1)
                else:
                    ended.append(run)
        return ended

    def _decode(self, run: Run, steps: int) -> None:
        self._number += 1
        heappush(self._rows, (self._step + steps, self._number, run))
        self._context += run.context + run.steps - steps

    def _begin(self) -> None:
        """Begins the steps up to the next change."""
        rows = len(self._rows)
        context = self._context / rows if rows else 0.0
        self._fed, self._rode = 0.0, 0.0
        steps_of = self._model.steps
        if self._feeding:
            self._fed = min(max(1, _BUDGET - rows), sum(run.feed for run in self._feeding))
            self._step_s = steps_of.step_s(max(rows, 1), self._fed, context)
            self._schedule(1)
        elif self._background > 1e-6:
            alone, each = self._marginal_of(rows)
            room = _STRETCH * alone if rows else max(_ALONE_S, alone)
            self._rode = min(max(1.0, room / each) if each else _BUDGET, _BUDGET, self._background)
            self._step_s = steps_of.step_s(max(rows, 1), self._rode, context)
            needed = max(1, int(self._background / self._rode))  # what is left then is less than a step's
            self._schedule(min(needed, self._rows[0][0] - self._step) if rows else needed)
        elif rows:
            self._step_s = steps_of.step_s(rows, 0, context)
            self._schedule(self._rows[0][0] - self._step)

    def _marginal_of(self, rows: int) -> tuple[float, float]:
        """Seconds of a step of so many rows, and what another token adds to it."""
        if rows not in self._marginal:
            alone = self._model.steps.step_s(max(rows, 1), 0, 0)
            more = self._model.steps.step_s(max(rows, 1), _MARGINAL, 0)
            self._marginal[rows] = alone, max(0.0, more - alone) / _MARGINAL
        return self._marginal[rows]
