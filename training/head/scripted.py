"""Answers to a tiny task's questions in one process, decided by scripts, thresholds and heads. It searches nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Self

from evals.checking.checkers import checker_of
from evals.latency import LatencyModel, Service
from evals.tasks import task as tasks
from evals.tasks.data import load_data
from rstitch.service.head import Head
from training.head.hand_overs import CALL, Path, Script
from training.head.pair import open_pair
from training.head.rollout import Answer, Consultation, Rollouts

_NUM_SESSIONS = 64


class Scripted:
    """The first questions of a split, put to a pair again and again.

    Args:
        models: SLM and LLM, folders.
        n: questions.
    """

    def __init__(self, models: tuple[str, str], task: str, split: str, n: int, latency: LatencyModel) -> None:
        self._task = tasks.load(task)
        self._problems = load_data(self._task, split=split, n=n).problems
        self._pair = open_pair(*models)
        self._prompts = [self._pair.prompt(problem.source) for problem in self._problems]
        self._checker = checker_of(self._task)
        self._latency = latency
        self._loop = asyncio.Runner()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._loop.close()

    def run(self, scripts: Sequence[tuple[int, Script]], tau: float) -> list[Path]:
        """Answers questions by their number, each with its script."""
        asked = [0] * len(scripts)

        def decide(index: int, consultation: Consultation) -> bool:
            asked[index] += 1
            return scripts[index][1].calls(asked[index] - 1)

        return self._answers([number for number, _ in scripts], tau, decide)

    def threshold(self, tau: float) -> list[Path]:
        """Answers all questions as `threshold` does."""
        return self.run([(number, CALL) for number in range(len(self._problems))], tau)

    def llm_only(self) -> list[Path]:
        """Answers all questions by the LLM; the SLM looks at the first token in vain."""
        return self.threshold(-1.0)

    def head(self, head: Head, price: float = 1.0) -> list[Path]:
        """Answers all questions as `learned` does; of a head without features."""
        return self._answers(
            range(len(self._problems)),
            head.facts.tau,
            lambda index, each: head.probability(each.hidden_state, each.context_length, price=price) > 0.5,
        )

    def _answers(self, numbers: Sequence[int], tau: float, decide: Callable[[int, Consultation], bool]) -> list[Path]:
        pair = self._pair
        rollouts = Rollouts(pair.slm, pair.llm, pair.stop_tokens, tau, self._task.max_new_tokens, _NUM_SESSIONS)
        answers = rollouts.run([self._prompts[number] for number in numbers], decide)
        return [self._path(number, answer) for number, answer in zip(numbers, answers, strict=True)]

    def _path(self, number: int, answer: Answer) -> Path:
        text = str(self._pair.tokenizer.decode(answer.written, skip_special_tokens=True))
        verdict = self._loop.run(self._checker.check(self._problems[number], text))
        latency_ms = self._latency.trajectory_ms(answer.start, answer.runs, Service())
        num_calls = sum(asked.to_llm for asked in answer.consultations)
        return Path(verdict.correct, latency_ms, len(answer.consultations), num_calls)
