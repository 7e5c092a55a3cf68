"""What a head, or a threshold, does on questions: accuracy, modelled latency, switches. Greedy decisions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from evals.figures.statistics import wilson
from evals.latency import LatencyModel, Service
from evals.tasks.tiny.arithmetic import Problem
from rstitch.service.head import Head
from training.head.pair import TrainingPair
from training.head.recipe import Recipe
from training.head.rollout import Answer, Decide, Rollouts


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one answer came to."""

    right: bool
    latency_ms: float
    num_tokens: int
    num_llm_tokens: int
    num_switches: int
    num_consultations: int


@dataclass(frozen=True, slots=True)
class Figures:
    """Means over n answers; accuracy with its 95% Wilson interval, in [0, 1].

    Attributes:
        right_latency_ms: the mean over all answers of the latency of the right ones; the wrong count as 0.
    """

    name: str
    n: int
    accuracy: float
    low: float
    high: float
    latency_ms: float
    num_tokens: float
    llm_share: float
    num_switches: float
    num_consultations: float
    right_latency_ms: float

    def reward(self, price: float) -> float:
        """Mean of r_acc - lambda * r_acc * L."""
        return self.accuracy - price * self.right_latency_ms


def outcome(pair: TrainingPair, latency: LatencyModel, answer: Answer, problem: Problem) -> Outcome:
    """The latency is that of the service: the waiting model is caught up beside."""
    return Outcome(
        right=pair.is_right(answer.written, problem),
        latency_ms=latency.trajectory_ms(answer.start, answer.runs, Service()),
        num_tokens=len(answer.written),
        num_llm_tokens=answer.num_llm_tokens,
        num_switches=answer.num_switches,
        num_consultations=len(answer.consultations),
    )


def figures(name: str, outcomes: Sequence[Outcome]) -> Figures:
    """Takes the means of outcomes."""
    n, num_right = len(outcomes), sum(each.right for each in outcomes)

    def mean(values: Sequence[float]) -> float:
        return float(np.mean(values))

    return Figures(
        name,
        n,
        num_right / n,
        *wilson(num_right, n),
        latency_ms=mean([each.latency_ms for each in outcomes]),
        num_tokens=mean([each.num_tokens for each in outcomes]),
        llm_share=sum(each.num_llm_tokens for each in outcomes) / sum(each.num_tokens for each in outcomes),
        num_switches=mean([each.num_switches for each in outcomes]),
        num_consultations=mean([each.num_consultations for each in outcomes]),
        right_latency_ms=mean([each.right * each.latency_ms for each in outcomes]),
    )


def greedy(head: Head) -> Decide:
    """Decides as the served head does."""
    return lambda index, asked: head.wants_llm(asked.hidden_state, asked.context_length)


def evaluate(
    name: str, pair: TrainingPair, latency: LatencyModel, problems: Sequence[Problem], decide: Decide, recipe: Recipe,
    on_done: Callable[[], None] = lambda: None,
) -> Figures:  # fmt: skip
    """Answers each problem once and takes the means."""
    answers = rollouts_of(pair, recipe).run([pair.prompt(problem) for problem in problems], decide, on_done)
    outcomes = [outcome(pair, latency, answer, problem) for answer, problem in zip(answers, problems, strict=True)]
    return figures(name, outcomes)


def rollouts_of(pair: TrainingPair, recipe: Recipe) -> Rollouts:
    """Rollouts of this pair, bounded as the recipe says."""
    return Rollouts(pair.slm, pair.llm, pair.stop_tokens, recipe.tau, recipe.max_new_tokens, recipe.num_sessions)
