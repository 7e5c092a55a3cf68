"""Answers as figures: asked once for each question and policy, and remembered. It knows no goal."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evals.asking.load import closed_loop
from evals.checking.checker import Checker
from evals.latency import LatencyModel, runs_of
from evals.tasks.data import Problem
from rstitch.client.aio import AsyncClient
from rstitch.client.specs import Spec, text_of
from rstitch.client.types import Message, Policy
from rstitch.errors import invalid


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answer. `correct` is None if nobody knows; `latency_ms` is as the client saw it, or as it is modelled."""

    llm_tokens: int
    tokens: int
    latency_ms: float
    correct: bool | None


@dataclass(frozen=True, slots=True)
class Sample:
    """Answers to the same questions in the same order, as arrays [n]."""

    llm_tokens: NDArray[np.float64]
    tokens: NDArray[np.float64]
    latency_ms: NDArray[np.float64]
    correct: NDArray[np.bool_]

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> Sample:
        llm_tokens, tokens, latency_ms, correct = np.array([astuple(o) for o in outcomes], float).reshape(-1, 4).T
        return cls(llm_tokens, tokens, latency_ms, correct == 1)  # None, where nobody knows, is nan

    def at(self, chosen: NDArray[np.int64]) -> Sample:
        return Sample(self.llm_tokens[chosen], self.tokens[chosen], self.latency_ms[chosen], self.correct[chosen])


@dataclass(slots=True)
class Outcomes:
    """Asks a router, greedily, what it has not been asked before.

    Attributes:
        checker: None: nobody knows what is right.
        concurrency: questions open at a time.
        latency_model: None: latencies are measured.
        cache: a file that keeps the outcomes from run to run; None: none does.
    """

    client: AsyncClient
    checker: Checker | None
    max_new_tokens: int
    concurrency: int
    latency_model: LatencyModel | None = None
    cache: Path | None = None
    _models: list[str] = field(default_factory=list)
    _known: dict[str, Outcome] = field(default_factory=dict)

    async def open(self) -> None:
        """Asks who answers, and reads what is known of them. Raises: RstitchError."""
        self._models = [f"{worker.model} {worker.dtype}" for worker in (await self.client.status()).workers]
        if self.cache is None or not self.cache.exists():
            return
        for number, line in enumerate(self.cache.read_text().splitlines(), 1):
            try:
                row = json.loads(line)
                key = row.pop("key")
                self._known[key] = Outcome(**row)
            except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
                where = f"{self.cache}, line {number}"
                raise invalid("--cache", f"{where} is none of ours.", "Name another file, or remove it.") from None

    async def ask(self, problems: Sequence[Problem], policy: Policy, tick: Callable[[], None]) -> Sample:

        async def one(problem: Problem) -> Outcome:
            key = self._key(problem, policy)
            if key not in self._known:
                self._keep(key, await self._answer(problem, policy))
            tick()
            return self._known[key]

        return Sample.of(await closed_loop(one, problems, self.concurrency))

    async def _answer(self, problem: Problem, policy: Policy) -> Outcome:
        begin = time.perf_counter()
        answer = await self.client.answer(
            chat=[Message("user", problem.prompt)], policy=policy, max_new_tokens=self.max_new_tokens, guard=False
        )
        latency_ms = 1000 * (time.perf_counter() - begin)
        if self.latency_model is not None:
            num_prompt_tokens, runs = runs_of(await self.client.trajectory(answer.session_id))
            latency_ms = self.latency_model.trajectory_ms(num_prompt_tokens, runs)
        await self.client.delete_trajectory(answer.session_id)
        correct = (await self.checker.check(problem, answer.text)).correct if self.checker else None
        usage = answer.finished.usage
        return Outcome(usage.num_llm_tokens, usage.num_tokens, latency_ms, correct)

    def _key(self, problem: Problem, policy: Policy) -> str:
        timed = self.concurrency if self.latency_model is None else self.latency_model.facts
        facts: list[Any] = [self._models, problem.prompt, problem.reference, text_of(Spec(policy))]
        facts += [self.max_new_tokens, self.checker is not None, timed]
        return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:24]

    def _keep(self, key: str, outcome: Outcome) -> None:
        self._known[key] = outcome
        if self.cache is not None:
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            with self.cache.open("a") as file:
                file.write(json.dumps({"key": key, **asdict(outcome)}) + "\n")
