"""The guard in closed loops on a simulated pair, whose answers slow each other down: it turns where it should.

Time is simulated and all chance is seeded.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from router_svc.observers.guard import Guard, Observation
from router_svc.observers.load import Kind, LoadMeter

SEEDS = range(5)


@dataclass(frozen=True, slots=True)
class Pair:
    """What a token takes in s, among answers of the same kind and of the other; in between it is between."""

    routed: float
    llm_only: float
    routed_among_llm_only: float
    llm_only_among_routed: float

    def token_s(self, kind: Kind, others_llm_only: float) -> float:
        if kind is Kind.ROUTED:
            return self.routed + others_llm_only * (self.routed_among_llm_only - self.routed)
        return self.llm_only_among_routed + others_llm_only * (self.llm_only - self.llm_only_among_routed)


# Four sessions on two cores, measured with models of 0.5B and 1.5B: 8.6 tok/s routed, 14.8 by the LLM alone. But one
# LLM-only answer among routed ones waits for an LLM that shares the memory, and takes longer than those beside it.
LOSES = Pair(4 / 8.6, 4 / 14.8, 0.30, 0.49)
# The bundled pair at four sessions. Alone among routed answers the LLM is faster than among its own.
PAYS = Pair(4 / 587, 4 / 336, 4 / 700, 4 / 500)
EVEN = Pair(1.0, 1.0, 0.8, 0.8)


@dataclass(slots=True)
class _Running:
    kind: Kind
    num_tokens: int
    left: float
    since: float
    noise: float


@dataclass(slots=True)
class Loop:
    """So many clients, each with one answer at a time."""

    seed: int
    sigma: float  # of the logarithm of an answer's time
    guard: Guard = field(default_factory=Guard)
    now: float = 0.0

    def run(self, pair: Callable[[int], Pair], sessions: Callable[[int], int], num: int) -> Iterator[tuple[Kind, bool]]:
        """Yields of each answer that begins its kind, and whether the guard has turned by then."""
        dice, meter, running = random.Random(self.seed), LoadMeter(), dict[str, _Running]()
        for begun in range(num):
            while len(running) >= sessions(begun):
                self._end_one(pair(begun), running, meter)
            choice = self.guard.choose(len(running) + 1)
            name, length = str(begun), dice.randint(30, 60)
            meter.enter(name, self.now, choice.kind, chosen=True)
            running[name] = _Running(choice.kind, length, length, self.now, dice.lognormvariate(0, self.sigma))
            yield choice.kind, self.guard.state(len(running)).llm_only

    def _end_one(self, pair: Pair, running: dict[str, _Running], meter: LoadMeter) -> None:
        llm_only = sum(answer.kind is Kind.LLM_ONLY for answer in running.values())
        token_s = {}
        for name, answer in running.items():
            beside = llm_only - (answer.kind is Kind.LLM_ONLY)
            share = beside / (len(running) - 1) if len(running) > 1 else float(answer.kind)
            token_s[name] = pair.token_s(answer.kind, share) * answer.noise
        first = min(running, key=lambda name: running[name].left * token_s[name])
        took = running[first].left * token_s[first]
        self.now += took
        for name, answer in running.items():
            answer.left -= took / token_s[name]
        ended, beside = running.pop(first), meter.leave(first, self.now)
        time_us = int(1e6 * (self.now - ended.since))
        self.guard.observe(
            Observation(ended.kind is Kind.ROUTED, beside.load, time_us, ended.num_tokens, beside.purity)
        )


def run(pair: Pair, sessions: int, num: int, seed: int, sigma: float) -> list[tuple[Kind, bool]]:
    return list(Loop(seed, sigma).run(lambda _: pair, lambda _: sessions, num))


def run_with_pauses(clients: int, pause: float, num: int, seed: int) -> list[tuple[Kind, bool]]:
    """The same of clients that wait for `pause` of an answer's time before they ask again; routed takes twice as long.

    So now one answer more runs, and now one less.
    """
    dice, guard, meter, begun = random.Random(seed), Guard(), LoadMeter(), list[tuple[Kind, bool]]()
    queue: list[tuple[float, int, tuple[Kind, float] | None]] = [(dice.random(), name, None) for name in range(clients)]
    heapq.heapify(queue)
    while len(begun) < num:
        now, name, running = heapq.heappop(queue)
        if running is None:
            choice = guard.choose(meter.num + 1)
            meter.enter(str(name), now, choice.kind, chosen=True)
            took = (2 if choice.kind is Kind.ROUTED else 1) * dice.uniform(0.9, 1.1)
            begun.append((choice.kind, choice.is_look))
            heapq.heappush(queue, (now + took, name, (choice.kind, took)))
            continue
        kind, took = running
        beside = meter.leave(str(name), now)
        guard.observe(Observation(kind is Kind.ROUTED, beside.load, int(took * 1e6), 40, beside.purity))
        heapq.heappush(queue, (now + pause * took * dice.uniform(0.5, 1.5), name, None))
    return begun


# With long pauses the load itself wanders from one bucket to the next, and each has to be looked at.
@pytest.mark.parametrize(("pause", "least"), [(0.01, 0.75), (0.1, 0.75), (0.2, 0.75), (0.5, 0.4)])
@pytest.mark.parametrize("clients", [2, 3, 4, 6, 8, 12])
def test_it_turns_at_the_edge_of_two_loads_too(clients: int, pause: float, least: float) -> None:
    for seed in SEEDS:
        answers = run_with_pauses(clients, pause, 600, seed)
        assert share_llm_only(answers) > least, seed
        assert sum(is_look for _, is_look in answers) < 0.15 * len(answers), seed


def share_llm_only(answers: list[tuple[Kind, bool]]) -> float:
    return sum(kind is Kind.LLM_ONLY for kind, _ in answers) / len(answers)


def turned_at(answers: list[tuple[Kind, bool]]) -> int:
    """Number of answers begun before the guard turned; their number if it did not."""
    return next((num for num, (_, turned) in enumerate(answers) if turned), len(answers))


@pytest.mark.parametrize(("sigma", "within"), [(0.0, 20), (0.1, 20), (0.3, 100), (0.5, 300)])
def test_where_routing_loses_it_turns_soon_and_stays(sigma: float, within: int) -> None:
    for seed in SEEDS:
        answers = run(LOSES, 4, 500, seed, sigma)
        assert turned_at(answers) <= within
        assert share_llm_only(answers[300:]) > 0.8


@pytest.mark.parametrize("sigma", [0.0, 0.3, 0.5])
def test_where_routing_pays_it_never_turns_and_looks_seldom(sigma: float) -> None:
    for seed in SEEDS:
        answers = run(PAYS, 4, 500, seed, sigma)
        assert not any(turned for _, turned in answers)
        assert share_llm_only(answers) < 0.1


@pytest.mark.parametrize("sessions", [1, 16])
def test_it_never_turns_where_routing_pays_at_other_loads(sessions: int) -> None:
    answers = run(PAYS, sessions, 500, 0, 0.3)
    assert not any(turned for _, turned in answers)
    assert share_llm_only(answers) < 0.2


def test_without_a_difference_it_does_not_swing() -> None:
    for seed in SEEDS:
        turns = [turned for _, turned in run(EVEN, 4, 500, seed, 0.3)]
        assert sum(before != now for before, now in pairwise(turns)) <= 1


def test_it_comes_back_when_routing_pays_again_and_turns_once_more() -> None:
    """Other questions, for instance, on which the SLM is surer."""
    loop = Loop(0, 0.15)
    pairs = [LOSES] * 300 + [PAYS] * 700 + [LOSES] * 500
    answers = list(loop.run(lambda begun: pairs[begun], lambda _: 4, 1500))
    turned = [turned for _, turned in answers]
    assert all(turned[50:300])
    assert not any(turned[800:1000])
    assert all(turned[1300:])


def test_each_load_has_a_verdict_of_its_own() -> None:
    """Alone routing pays, at eight it loses, and the load changes every 150 answers."""
    loop, sessions = Loop(0, 0.2), [1 if begun // 150 % 2 else 8 for begun in range(1200)]
    pairs = [PAYS if num == 1 else LOSES for num in sessions]
    answers = list(loop.run(lambda begun: pairs[begun], lambda begun: sessions[begun], 1200))
    assert share_llm_only(answers[920:1050]) > 0.8
    assert share_llm_only(answers[1070:]) < 0.1


def test_the_same_answers_give_the_same_choices() -> None:
    assert run(LOSES, 4, 200, 3, 0.4) == run(LOSES, 4, 200, 3, 0.4)
