"""Two models and their sessions, simulated: what it does to hold steps back, and what it does to share a GPU.

    python -m evals.bench.batching_sim            # the figures of docs/batching.md
    python -m evals.bench.batching_sim --tiny     # the bundled pair too, its steps measured here

Sessions in a closed loop, each in turn in a run of the SLM (of geometric length, its last token a proposal that is not
kept) and in a run of the LLM (geometric, too). Both models step by the workers' own BatchingRule over the workers' own
CostModel. A run that comes while its model is in a step waits for the end of it. Deterministic for a seed. It knows no
tokens, no network and no host but for one constant time a switch.
"""

from __future__ import annotations

import argparse
import heapq
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean

from model_worker.engine.bookkeeping.batching import Arrivals, BatchingRule, Load
from model_worker.engine.bookkeeping.cost_model import CostModel

SLM, LLM = 0, 1
_CATCH_UP = 2  # tokens of a row that comes back: what background catch-up has left

# A batching rule for a model with these costs; None: every step starts at once.
MakeRule = Callable[[CostModel], BatchingRule | None]


def eager(costs: CostModel) -> None:
    """No rule."""


def delayed(costs: CostModel) -> BatchingRule:
    """While it pays."""
    return BatchingRule(costs, max_delay_s=1.0)


def fixed(size: int) -> MakeRule:
    """Until there are so many rows, if so many can come."""
    return lambda costs: BatchingRule(costs, max_delay_s=1.0, size=size)


@dataclass(frozen=True)
class Pair:
    """What is simulated.

    Attributes:
        name: for tables.
        costs: of the SLM's and the LLM's steps.
        llm_share: of the tokens kept.
        llm_run: mean tokens of a run of the LLM.
        switch_s: from the end of one model's run to the arrival of the other's.
        shared: both models on one device: steps that overlap take turns.
        slm_steps: on a shared device, one step at a time, and so many of the SLM for each of the LLM; 0: no such gate.
    """

    name: str
    costs: tuple[CostModel, CostModel]
    llm_share: float = 0.15
    llm_run: float = 2.0
    switch_s: float = 0.0005
    shared: bool = False
    slm_steps: int = 0

    @property
    def slm_run(self) -> float:
        """Mean steps of a run of the SLM, its proposal included."""
        return self.llm_run * (1 - self.llm_share) / self.llm_share + 1

    def llm_only_tokens_per_s(self, num_sessions: int) -> float:
        """The LLM alone, all sessions in every step."""
        return num_sessions / self.costs[LLM].step_us(num_sessions) * 1e6


@dataclass(frozen=True)
class Result:
    """What came of it.

    Attributes:
        tokens_per_s: kept, over all sessions.
        rows: of a step of the SLM, of the LLM.
        held: the share of time that their steps were held back.
    """

    tokens_per_s: float
    rows: tuple[float, float]
    held: tuple[float, float]


@dataclass
class _Model:
    """One model's worker."""

    costs: CostModel
    rule: BatchingRule | None
    arrivals: Arrivals = field(default_factory=Arrivals)
    left: dict[int, int] = field(default_factory=dict)  # steps still to come of the run of each session that is here
    fresh: set[int] = field(default_factory=set)  # sessions whose row is a catch-up
    batch: list[int] = field(default_factory=list)  # sessions in the step that is going on
    work_s: float = 0.0  # of that step, still to do
    held_until: float = 0.0
    num_steps: int = 0
    num_rows: int = 0
    held_s: float = 0.0

    @property
    def load(self) -> Load:
        fresh = len(self.fresh)
        return Load(len(self.left), len(self.left) - fresh, _CATCH_UP * fresh)

    def forget_counts(self) -> None:
        self.num_steps, self.num_rows, self.held_s = 0, 0, 0.0


class _Simulation:
    def __init__(self, pair: Pair, rules: tuple[MakeRule, MakeRule], num_sessions: int, seed: int) -> None:
        self.pair = pair
        self.random = random.Random(seed)
        self.now = 0.0
        self.num_kept = 0
        self.models = [_Model(costs, rule(costs)) for costs, rule in zip(pair.costs, rules, strict=True)]
        self.coming = [(self.random.random() * 0.01, session, SLM) for session in range(num_sessions)]
        heapq.heapify(self.coming)
        self.slm_steps = 0  # since the LLM's last

    def run(self, num_tokens: int) -> Result:
        while self.num_kept < num_tokens // 4:
            self._go_on()
        for model in self.models:
            model.forget_counts()
        began, kept = self.now, self.num_kept
        while self.num_kept < kept + num_tokens:
            self._go_on()
        seconds = self.now - began
        slm, llm = self.models
        return Result(
            (self.num_kept - kept) / seconds,
            (slm.num_rows / max(1, slm.num_steps), llm.num_rows / max(1, llm.num_steps)),
            (slm.held_s / seconds, llm.held_s / seconds),
        )

    def _go_on(self) -> None:
        for index, model in enumerate(self.models):
            if model.left and not model.batch and self._may_start(index):
                self._start(index, model)
        self._advance()

    def _start(self, index: int, model: _Model) -> None:
        load = model.load
        if model.rule is not None:
            delay = model.rule.delay(self.now, load, model.arrivals)
            model.held_until = self.now + delay
            if delay > 0:
                return
            model.held_s += model.rule.started(self.now)
        model.batch = list(model.left)
        model.work_s = model.costs.step_us(load.num_decode_rows, load.num_other_tokens) / 1e6
        model.fresh.clear()
        model.num_steps += 1
        model.num_rows += len(model.batch)
        self.slm_steps = self.slm_steps + 1 if index == SLM else 0

    def _may_start(self, index: int) -> bool:
        """The gate of a shared device."""
        if not self.pair.slm_steps:
            return True
        other = self.models[1 - index]
        llms_turn = self.slm_steps >= self.pair.slm_steps
        return not other.batch and (not other.left or llms_turn == (index == LLM))

    def _advance(self) -> None:
        """To the next arrival, end of a step or end of a delay."""
        stepping = [model for model in self.models if model.batch]
        speed = 0.5 if self.pair.shared and len(stepping) == 2 else 1.0
        times = [self.now + model.work_s / speed for model in stepping]
        times += [model.held_until for model in self.models if not model.batch and model.held_until > self.now]
        times += [time for time, _, _ in self.coming[:1]]
        passed = min(times) - self.now
        self.now += passed
        while self.coming and self.coming[0][0] <= self.now:
            _, session, index = heapq.heappop(self.coming)
            self._arrive(session, index, self.models[index])
        for model in stepping:
            model.work_s -= passed * speed
            if model.work_s <= 1e-12:
                self._end_step(self.models.index(model), model)

    def _arrive(self, session: int, index: int, model: _Model) -> None:
        model.arrivals.came(str(session), self.now)
        model.left[session] = self._geometric(self.pair.llm_run if index == LLM else self.pair.slm_run)
        model.fresh.add(session)

    def _end_step(self, index: int, model: _Model) -> None:
        for session in model.batch:
            model.left[session] -= 1
            self.num_kept += index == LLM or model.left[session] > 0
            if model.left[session] == 0:
                del model.left[session]
                model.arrivals.left(str(session), self.now)
                heapq.heappush(self.coming, (self.now + self.pair.switch_s, session, 1 - index))
        model.batch = []

    def _geometric(self, mean_steps: float) -> int:
        steps = 1
        while self.random.random() >= 1 / mean_steps:
            steps += 1
        return steps


def simulate(
    pair: Pair, rules: tuple[MakeRule, MakeRule], num_sessions: int, *, num_tokens: int = 8000, seed: int = 0
) -> Result:
    """What the sessions get, after a warm-up. `rules`: the SLM's and the LLM's."""
    return _Simulation(pair, rules, num_sessions, seed).run(num_tokens)


def flat(step_ms: float, per_row: float = 0.005) -> CostModel:
    """A device bound by the weights it reads: a step takes so long, and `per_row` of that more for each further row."""
    us = step_ms * 1000
    more = 64 * per_row * us
    return CostModel({1: us, 65: us + more}, {2: us, 66: us + more / 2}, {2: 0, 66: more / 2})


# Step times of 1.5B and 7B, 14B, 32B on one H200 in bf16.
H200 = tuple(
    Pair(f"1.5B + {size}, {llm_run:g} a run", (flat(2), flat(step_ms)), llm_run=llm_run)
    for size, step_ms in (("7B", 5), ("14B", 9), ("32B", 19))
    for llm_run in (1.0, 2.0)
)


def tiny_pair() -> Pair:
    """The bundled pair: steps measured on this machine. Runs as at tau 0.02."""
    from model_worker.build import build
    from model_worker.settings import WorkerSettings
    from model_worker.tokenizer import load_tokenizer

    costs = []
    for model in ("models/tiny-slm", "models/tiny-llm"):
        settings = WorkerSettings(model=model, listen="127.0.0.1:0", threads=1)
        measured = build(settings, load_tokenizer(model).vocab_size)[1].costs
        assert measured is not None, "the default settings measure"
        costs.append(measured)
    return Pair("tiny pair", (costs[SLM], costs[LLM]))


def batching_table(pairs: Sequence[Pair], sessions: Sequence[int], seeds: range) -> Iterator[str]:
    """Throughput of eager batching, and the others' relative to it."""
    others: list[tuple[str, tuple[MakeRule, MakeRule]]] = [("delayed", (delayed, delayed))]
    others += [(f"LLM fixed:{size}", (eager, fixed(size))) for size in (2, 4, 8, 16)]
    yield f"| pair | sessions | eager, tok/s | {' | '.join(name for name, _ in others)} |"
    yield "|-|" + "-|" * (len(others) + 2)
    for pair in pairs:
        for num_sessions in sessions:
            base = [simulate(pair, (eager, eager), num_sessions, seed=seed).tokens_per_s for seed in seeds]
            ratios = []
            for _, rules in others:
                got = [simulate(pair, rules, num_sessions, seed=seed).tokens_per_s for seed in seeds]
                ratios.append(mean(got) / mean(base))
            yield f"| {pair.name} | {num_sessions} | {mean(base):.0f} | {' | '.join(f'{r:.2f}' for r in ratios)} |"


def sharing_table(pairs: Sequence[Pair], sessions: Sequence[int], seeds: range) -> Iterator[str]:
    """Throughput over the LLM alone: on two devices, and on one by time slices or by a gate."""
    gates = (0, 1, 2, 4, 8, 16)
    names = ["time slices", *(f"{k} to 1" for k in gates[1:])]
    yield f"| pair | sessions | two devices | one: {' | '.join(names)} |"
    yield "|-|" + "-|" * (len(gates) + 2)
    for pair in pairs:
        for num_sessions in sessions:
            cells = []
            for one in (pair, *(replace(pair, shared=True, slm_steps=k) for k in gates)):
                got = [simulate(one, (eager, eager), num_sessions, seed=seed).tokens_per_s for seed in seeds]
                cells.append(f"{mean(got) / pair.llm_only_tokens_per_s(num_sessions):.2f}")
            yield f"| {pair.name} | {num_sessions} | {' | '.join(cells)} |"


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--tiny", action="store_true", help="measure the bundled pair here and simulate it too")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    pairs = (*H200, *([tiny_pair()] if args.tiny else []))
    for line in batching_table(pairs, (1, 2, 4, 8, 16, 32, 64), range(args.seeds)):
        print(line, flush=True)
    print()
    for line in sharing_table(H200, (1, 4, 16, 64), range(args.seeds)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
