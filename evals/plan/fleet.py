"""A fleet under a load: what its workers do, how long answers take, where it saturates. Closed form.

Sessions are spread evenly, as placement does (`rstitch plan simulate` measures how evenly), so each worker of a role is
the same queue. On one machine whose cores everything shares, steps are stretched by the wait for a core.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

from evals.plan.load import ROLES, Answers, Role
from evals.plan.queue import Loaded, Station
from evals.plan.sharing import Threads, stretch_of
from evals.plan.steps import Steps, Stretched

# Of the variance of a worker's speed, what is left of it in the mean over an answer's own duration: speed is forgotten
# in about that time, since its sessions are by then others.
_LEFT = 2 / math.e
_OTHERS = 2  # processes of a stack on one machine beside workers and router: Redis, a client
_THREADS = 2  # of a process that compute: its work, and its wire; chosen by `rstitch plan check`
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Model:
    """What a worker of a role is.

    Attributes:
        max_rows: that one step takes.
        kv_tokens: that its cache holds.
        num_cards: that it is spread over.
    """

    steps: Steps
    max_rows: int
    kv_tokens: int
    num_cards: int = 1


@dataclass(frozen=True, slots=True)
class Beside:
    """What an answer takes beside the models' steps; the defaults are figures of docs/performance.md.

    Attributes:
        answer_ms, switch_ms, token_ms: that it waits for wire, store and router, once, at each switch, by a token.
        router_us, gateway_ms: of one core, by a token and by an answer.
        worker_us: of a core by a token, of Redis and clients together, if all share a machine.
        cores: of the machine that all of it shares, with one router; 0: each worker has what it needs.
    """

    answer_ms: float = 4.0
    switch_ms: float = 1.8
    router_us: float = 165.0
    gateway_ms: float = 4.0
    worker_us: float = 0.0
    token_ms: float = 0.0
    cores: float = 0.0


@dataclass(frozen=True, slots=True)
class Latency:
    """How long answers take, in seconds: first token on average, all of it on average, and the spread of that."""

    first_s: float
    mean_s: float
    sigma: float  # of the logarithm: lengths and speeds multiply

    def quantile_s(self, share: float) -> float:
        """Returns the time within which such a share of answers is done."""
        if not 0 < self.mean_s < math.inf:
            return self.mean_s
        return self.mean_s * math.exp(self.sigma * _NORMAL.inv_cdf(share) - self.sigma**2 / 2)


@dataclass(frozen=True, slots=True)
class State:
    """A fleet under a load: each role's workers, answers, and how many of these are under way."""

    rate: float
    workers: Mapping[Role, Loaded]
    latency: Latency
    stretch: float = 1.0

    @property
    def under_way(self) -> float:
        """Answers at a time (Little's law)."""
        return self.rate * self.latency.mean_s

    @property
    def token_s(self) -> float:
        """Seconds that the slowest role takes for a token."""
        return max(each.token_s for each in self.workers.values())


@dataclass(frozen=True, slots=True)
class Fleet:
    """So many workers of each role, and what answers are like."""

    models: Mapping[Role, Model]
    numbers: Mapping[Role, int]
    answers: Answers
    beside: Beside = Beside()

    def station(self, role: Role, stretch: float = 1.0) -> Station:
        """One worker of a role as a queue."""
        model, answers = self.models[role], self.answers
        steps = Stretched(model.steps, stretch) if stretch > 1 else model.steps
        rows = max(1, min(model.max_rows, self.sessions_that_fit(role)))
        return Station(steps, answers.demand(role), rows, answers.context)

    def sessions_that_fit(self, role: Role) -> int:
        """Sessions at the end of an answer that the cache of one worker holds."""
        return int(self.models[role].kv_tokens // self.answers.kept_tokens)

    @property
    def taking_part(self) -> tuple[Role, ...]:
        """The roles that write anything."""
        return tuple(role for role in ROLES if self.answers.demand(role).steps)

    def saturation(self, role: Role) -> float:
        """Answers a second at which all workers of a role have full steps without end."""
        return self.numbers[role] * self.station(role).saturation

    @property
    def saturation_of_all(self) -> float:
        """Answers a second at which the first role is full, or the machine that all of it shares."""
        least = min(self.saturation(role) for role in self.taking_part)
        if not self.beside.cores:
            return least
        low, high = 0.0, least
        while high - low > 1e-6 * high:
            middle = (low + high) / 2
            low, high = (middle, high) if self._stretch(middle) < math.inf else (low, middle)
        return low

    def at(self, rate: float) -> State:
        """The fleet when so many answers a second, more than 0, come at random times."""
        stretch = self._stretch(rate)
        if stretch == math.inf:
            overloaded = {role: self.station(role).at(math.inf) for role in self.taking_part}
            return State(rate, overloaded, Latency(math.inf, math.inf, 0), stretch)
        workers = {role: self.station(role, stretch).at(rate / self.numbers[role]) for role in self.taking_part}
        return State(rate, workers, self._latency(workers, rate, stretch), stretch)

    def cores_used(self, state: State) -> float:
        """Cores that steps, routers and what else a token takes keep busy on average, with one core to a worker."""
        outside = state.rate * self.answers.tokens * (self.beside.router_us + self.beside.worker_us) / 1e6
        inside = {role: each.busy + each.alone for role, each in state.workers.items()}
        return outside + sum(self.numbers[role] * busy / state.stretch for role, busy in inside.items())

    def among(self, sessions: int) -> State:
        """The fleet when so many sessions ask their next question as soon as the one before is answered."""
        low, high = 0.0, self.saturation_of_all
        while high - low > 1e-6 * high:
            middle = (low + high) / 2
            low, high = (middle, high) if self.at(middle).under_way < sessions else (low, middle)
        state = self.at(low)
        # Where cores are what there is too little of, more sessions only wait: as long as Little's law says.
        latency = replace(state.latency, mean_s=max(state.latency.mean_s, sessions / state.rate))
        return replace(state, latency=latency)

    def _latency(self, workers: Mapping[Role, Loaded], rate: float, stretch: float) -> Latency:
        if any(each.is_overloaded for each in workers.values()):
            return Latency(math.inf, math.inf, 0)
        answers, beside = self.answers, self.beside
        first_role = self.taking_part[0]
        first = beside.answer_ms / 1000 * stretch + self._prompt_s(first_role, rate, stretch)
        first += workers[first_role].begin_s + workers[first_role].wait_s + workers[first_role].token_s
        with_length, variance = 0.0, 0.0
        for role, each in workers.items():
            demand = answers.demand(role)
            with_length += demand.steps * each.token_s + demand.runs * (each.begin_s + each.wait_s)
            variance += (demand.steps * each.token_sd_s) ** 2 * _LEFT + demand.runs * each.wait_s**2
        waits_ms = answers.num_switches * beside.switch_ms + answers.tokens * beside.token_ms
        with_length += waits_ms / 1000 * stretch
        mean = first - workers[first_role].token_s - workers[first_role].begin_s - workers[first_role].wait_s
        mean += with_length
        variance += (answers.cv * with_length) ** 2
        return Latency(first, mean, math.sqrt(math.log1p(variance / mean**2)))

    def _prompt_s(self, role: Role, rate: float, stretch: float) -> float:
        """Seconds that the prompt makes the steps longer which compute it, beside whatever else they have."""
        model, prompt = self.models[role], self.answers.prompt_tokens
        rows = max(1, round(self.at_rows(role, rate, stretch)))
        with_it = model.steps.step_s(rows, prompt, self.answers.context)
        return stretch * max(0.0, with_it - model.steps.step_s(rows, 0, self.answers.context))

    def at_rows(self, role: Role, rate: float, stretch: float) -> float:
        """Rows of a worker's steps on average."""
        return self.station(role, stretch).at(rate / self.numbers[role]).rows

    def _stretch(self, rate: float) -> float:
        """How much longer everything takes, as whoever computes waits for one of the cores; infinite without end.

        A busier worker has fuller steps, which take less of a core for a token: the smallest stretch is sought at which
        both agree.
        """
        beside = self.beside
        if not beside.cores:
            return 1.0
        tokens_s = rate * self.answers.tokens
        router, others = tokens_s * beside.router_us / 1e6, tokens_s * beside.worker_us / 1e6

        def threads(stretch: float) -> list[Threads]:
            processes = [(router, 1), (others / _OTHERS, _OTHERS)]
            for role in self.taking_part:
                loaded = self.station(role, stretch).at(rate / self.numbers[role])
                processes.append(((loaded.busy + loaded.alone) / stretch, self.numbers[role]))
            return [Threads(used / _THREADS, _THREADS * number) for used, number in processes]

        def used(found: Sequence[Threads]) -> float:
            return sum(each.used * each.number for each in found)

        # Where all of them want a core.
        most = max(1.0, _THREADS * (sum(self.numbers.values()) + 1 + _OTHERS) / beside.cores)
        low, high = max(1.0, 1 / beside.cores), most
        while high - low > 1e-4 * high:
            middle = (low + high) / 2
            found = threads(middle)
            is_more = used(found) >= beside.cores or stretch_of(found, beside.cores, middle) > middle
            low, high = (middle, high) if is_more else (low, middle)
        # A router's work is one thread's; what a worker cannot do its station says.
        is_full = used(threads(high)) >= beside.cores or router * high > 1
        is_full = is_full or any(
            self.station(role, high).at(rate / self.numbers[role]).is_overloaded for role in self.taking_part
        )
        return math.inf if is_full else high
