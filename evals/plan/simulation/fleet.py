"""Conversations on a fleet of workers and routers, with workers that die and are drained.

A conversation is bound to one worker of each role at its first turn, keeps them while they live and take sessions, and
may leave one that has far more than others at its next turn. Who loses a worker is computed anew on another one.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from statistics import fmean, pstdev

from evals.plan.fleet import Fleet
from evals.plan.load import ROLES, Role
from evals.plan.simulation.clock import Clock
from evals.plan.simulation.router import Roster, Way
from evals.plan.simulation.worker import CatchUp, Run, Worker

_BEAT_S, _READ_S = 1.0, 0.5  # announcements, and readings of them
_BUCKETS = 50  # of workers that announce themselves at the same moment


@dataclass(frozen=True, slots=True)
class Plan:
    """What is simulated.

    Attributes:
        rate: answers a second; a conversation has `turns` of them on average, with `think_s` between two.
        routers: that each place their sessions.
        deaths, drains: an hour and worker; who dies or was drained is back, empty, after `back_s`.
        begin_s: from when on answers count and the spread is looked at, up to `seconds`.
    """

    fleet: Fleet
    rate: float
    routers: int = 3
    way: Way = "fleet"
    turns: float = 3.0
    think_s: float = 10.0
    deaths: float = 0.0
    drains: float = 0.0
    back_s: float = 30.0
    begin_s: float = 60.0
    seconds: float = 180.0
    seed: int = 0


@dataclass(slots=True)
class Seen:
    """What came of it.

    Attributes:
        latencies: seconds of the answers that were asked for after `begin_s`.
        spread: by role, of each second: largest over mean of the sessions bound, and their deviation over the mean.
        moved: sessions that left a worker, by why.
        recomputed: tokens that were computed anew for them.
    """

    latencies: list[float] = field(default_factory=list)
    spread: dict[Role, list[Spread]] = field(default_factory=lambda: {role: [] for role in ROLES})
    moved: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("died", "drained", "overloaded"), 0))
    recomputed: int = 0
    num_answers: int = 0
    num_placed: int = 0
    num_deaths: int = 0
    num_drains: int = 0
    num_events: int = 0


@dataclass(frozen=True, slots=True)
class Spread:
    """Sessions of the workers of a role that take any, at one moment."""

    mean: float
    most: int
    least: int
    cv: float

    @property
    def most_over_mean(self) -> float:
        return self.most / self.mean if self.mean else 1.0


class Simulation:
    """A fleet in time; the same plan gives the same events."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.seen = Seen()
        self.clock = Clock()
        self.rng = random.Random(f"{plan.seed} load")
        self._failures = random.Random(f"{plan.seed} failures")
        self._names = count()
        fleet = plan.fleet
        self.workers: Mapping[Role, list[Worker]] = {
            role: [Worker(f"{role}-{number}", fleet.models[role], self.clock) for number in range(fleet.numbers[role])]
            for role in fleet.taking_part
        }
        ways = random.Random(f"{plan.seed} ways")
        self.routers = [
            {role: Roster(workers, plan.way, ways) for role, workers in self.workers.items()}
            for _ in range(plan.routers)
        ]
        self.asked: dict[Session, float] = {}  # of answers under way, when they were asked for
        self.held: dict[Worker, set[Session]] = {worker: set() for worker in self._all()}

    def run(self) -> Seen:
        """Runs it to its end."""
        plan, clock = self.plan, self.clock
        everyone = list(self._all())
        for number in range(_BUCKETS):
            bucket = everyone[number::_BUCKETS]

            def beat(now: float, bucket: list[Worker] = bucket) -> None:
                for worker in bucket:
                    if worker.is_alive:
                        worker.announce(now)

            beat(0.0)
            clock.every(_BEAT_S, number / _BUCKETS * _BEAT_S, beat)
        for number, router in enumerate(self.routers):
            for roster in router.values():
                roster.read(0.0)
                clock.every(_READ_S, number / plan.routers * _READ_S, roster.read)
        clock.every(1.0, plan.begin_s, self._look)
        for rate, event in ((plan.deaths, self._kill), (plan.drains, self._drain)):
            if rate:
                self._often(rate * len(everyone) / 3600, self._failures, event)
        self._often(plan.rate / plan.turns, self.rng, self._begin)
        clock.run(plan.seconds)
        self.seen.num_events = clock.num_events
        self.seen.num_placed = sum(roster.num_decisions for router in self.routers for roster in router.values())
        return self.seen

    def router(self) -> Mapping[Role, Roster]:
        """Whoever the next request comes to."""
        return self.routers[self.rng.randrange(len(self.routers))]

    def _all(self) -> Iterator[Worker]:
        for workers in self.workers.values():
            yield from workers

    def _often(self, rate: float, rng: random.Random, event: object) -> None:
        assert callable(event)

        def again(now: float) -> None:
            event(now)
            self.clock.at(now + rng.expovariate(rate), again)

        self.clock.at(rng.expovariate(rate), again)

    def _begin(self, now: float) -> None:
        Session(self, f"session-{next(self._names)}").ask(now)

    def _look(self, now: float) -> None:
        for role, workers in self.workers.items():
            counts = [worker.num_sessions for worker in workers if worker.is_alive and not worker.is_draining]
            if counts:
                mean = fmean(counts)
                cv = pstdev(counts, mean) / mean if mean else 0.0
                self.seen.spread[role].append(Spread(mean, max(counts), min(counts), cv))

    def _kill(self, now: float) -> None:
        worker = self._failures.choice(list(self._all()))
        if not worker.is_alive:
            return
        self.seen.num_deaths += 1
        lost = worker.die(now)
        for session in sorted(self.held[worker], key=lambda each: each.name):
            session.lose(worker)
        self.held[worker].clear()
        self.clock.at(now + self.plan.back_s, lambda now: worker.come_back())
        for run, taken in lost:
            run.lost(now, taken)

    def _drain(self, now: float) -> None:
        worker = self._failures.choice(list(self._all()))
        if not worker.is_alive or worker.is_draining:
            return
        self.seen.num_drains += 1
        worker.is_draining = True
        life = worker.life

        def end(now: float) -> None:
            if worker.life == life and worker.is_draining:
                worker.come_back()

        self.clock.at(now + self.plan.back_s, end)


class Session:
    """A conversation: who it is bound to, how long it is, and the answer that is being written."""

    def __init__(self, simulation: Simulation, name: str) -> None:
        self.name = name
        self._of = simulation
        self._bound: dict[Role, Worker] = {}
        self._held: dict[Role, int] = {}  # tokens that its worker has or was told to compute; -1: it died
        self._behind = {role: CatchUp() for role in ROLES}
        self._length = 0
        self._left = 0
        self._router = simulation.router()

    def ask(self, now: float) -> None:
        """The next turn: a prompt comes."""
        answers, rng = self._of.plan.fleet.answers, self._of.rng
        self._router = self._of.router()
        self._of.asked[self] = now
        self._length += round(answers.prompt_tokens) + (0 if self._bound else round(answers.held_tokens))
        sigma = math.sqrt(math.log1p(answers.cv**2))
        self._left = max(1, round(answers.tokens * math.exp(rng.gauss(0, sigma) - sigma**2 / 2)))
        for role in self._of.workers:
            worker = self._bound.get(role)
            if worker is None:
                self._place(role, now)
            elif self._router[role].is_overloaded(self.name, worker, now):
                self._move(role, now, "overloaded")
        self._write(self._of.plan.fleet.taking_part[0], now + self._of.plan.fleet.beside.answer_ms / 1000)

    def lose(self, worker: Worker) -> None:
        """A worker is dead that it is bound to: what it held is gone, and the next run finds that out."""
        for role, bound in self._bound.items():
            if bound is worker:
                self._held[role] = -1

    def _place(self, role: Role, now: float, besides: Worker | None = None) -> None:
        roster = self._router[role]
        while (worker := roster.place(self.name, now, besides)) is not None and not worker.is_alive:
            roster.suspect(worker.id)  # it does not answer
        # Where nobody is known it waits for whoever comes first.
        worker = worker or min(self._of.workers[role], key=lambda each: (not each.is_alive, each.num_sessions, each.id))
        self._bound[role], self._held[role] = worker, 0
        worker.num_sessions += 1
        self._of.held[worker].add(self)

    def _leave(self, role: Role) -> None:
        worker = self._bound.pop(role)
        worker.forget(self._behind[role])
        self._behind[role] = CatchUp()
        if self._held.pop(role) >= 0:
            worker.num_sessions -= 1
            self._of.held[worker].discard(self)

    def _move(self, role: Role, now: float, why: str) -> None:
        self._of.seen.moved[why] += 1
        self._of.seen.recomputed += max(0, self._length if self._held[role] < 0 else self._held[role])
        before = self._bound[role]
        self._leave(role)
        self._place(role, now, before)

    def _write(self, role: Role, begin: float) -> None:
        self._of.clock.at(begin, lambda now: self._run(role, now))

    def _run(self, role: Role, now: float) -> None:
        """A model begins to write, for as long as its runs are."""
        answers, rng = self._of.plan.fleet.answers, self._of.rng
        if answers.is_routed:
            share = answers.llm_share if role == "llm" else 1 - answers.llm_share
            tokens = min(self._left, _geometric(rng, 200 * share / answers.switches))
        else:
            tokens = self._left
        self._go_on(role, now, tokens, discarded=int(role == "slm" and tokens < self._left))

    def _go_on(self, role: Role, now: float, tokens: int, discarded: int) -> None:
        if self._held[role] < 0:
            self._router[role].suspect(self._bound[role].id)
            self._move(role, now, "died")
        elif self._bound[role].is_draining:
            self._move(role, now, "drained")
        worker = self._bound[role]
        if not worker.is_alive:
            self._of.clock.at(now + _READ_S, lambda now: self._go_on(role, now, tokens, discarded))
            return
        feed = max(1, self._length - self._held[role])
        self._held[role] = self._length + tokens
        run = Run(
            feed, tokens + discarded, self._length, self._behind[role], lambda now: self._ended(role, now, tokens),
            lambda now, taken: self._lost(role, now, min(taken, tokens), tokens, discarded),
        )  # fmt: skip
        worker.start(now, run)
        unseen = round(self._of.plan.fleet.answers.unseen_tokens)
        self._catch_up("llm" if role == "slm" else "slm", now, self._length + tokens - unseen)

    def _catch_up(self, role: Role, now: float, length: int) -> None:
        """The other model computes what is written, beside it: told here at once, by a router bit by bit."""
        held = self._held.get(role, -1)
        if 0 <= held < length:
            self._bound[role].catch_up(now, self._behind[role], length - held)
            self._held[role] = length

    def _lost(self, role: Role, now: float, taken: int, tokens: int, discarded: int) -> None:
        """Its worker died under it: the rest is written on another, after all that there is."""
        self._length += taken
        self._left -= taken
        if tokens - taken + discarded:
            self._go_on(role, now, tokens - taken, discarded)
        else:
            self._ended(role, now, 0)

    def _ended(self, role: Role, now: float, tokens: int) -> None:
        self._length += tokens
        self._left -= tokens
        if not self._left:
            self._answered(now)
            return
        other: Role = "llm" if role == "slm" else "slm"
        self._write(other, now + self._of.plan.fleet.beside.switch_ms / 1000)

    def _answered(self, now: float) -> None:
        plan, seen, rng = self._of.plan, self._of.seen, self._of.rng
        seen.num_answers += 1
        asked_at = self._of.asked.pop(self)
        if asked_at >= plan.begin_s:
            seen.latencies.append(now - asked_at)
        if rng.random() * plan.turns < 1:
            for role in tuple(self._bound):
                self._leave(role)
            return
        self._of.clock.at(now + rng.expovariate(1 / plan.think_s), self.ask)


def _geometric(rng: random.Random, mean: float) -> int:
    """A whole number from 1 on."""
    if mean <= 1:
        return 1
    return 1 + int(math.log(1 - rng.random()) / math.log(1 - 1 / mean))
