"""The real stack beside the prediction: each candidate is served with the LLM and asked, then asked of the LLM alone.

The questions are others than those that were predicted from. One at a time and in turn, so that noise hits both alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from scipy import stats

from evals.asking.blocks import Plan, measure
from evals.asking.load import Load
from evals.asking.record import Record
from evals.asking.run_file import Run
from evals.asking.systems import Served, Terms
from evals.figures.statistics import paired_ratio, wilson
from evals.pairs.predict import Candidate
from evals.pairs.questions import Question, agrees
from evals.tasks.data import Problem
from rstitch.client.aio import AsyncClient
from rstitch.client.types import LlmOnly, Threshold
from rstitch.errors import invalid
from rstitch.local.stack import LocalStack

_WARM_UP = 2
_SYSTEMS = ("stitched", "llm_only")


@dataclass(frozen=True, slots=True)
class Measured:
    """A candidate on the real stack at its proposed threshold; intervals are 95%, LLM-only on the same questions."""

    n: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    llm_accuracy: float
    llm_share: float
    switches: float
    tokens: float
    latency_ms: float
    llm_only_ms: float
    speed_up_low: float
    speed_up_high: float

    @property
    def speed_up(self) -> float:
        return self.llm_only_ms / self.latency_ms

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "speed_up": self.speed_up}


def measured(
    stack: LocalStack, candidate: Candidate, questions: Sequence[Question], max_new_tokens: int,
    on_asked: Callable[[], None],
) -> Measured:  # fmt: skip
    """Starts the stack, asks, stops it. Raises: StackError, RstitchError."""
    with stack as served:
        return asyncio.run(_ask(served.router_address, candidate, questions, max_new_tokens, on_asked))


async def _ask(
    address: str, candidate: Candidate, questions: Sequence[Question], max_new_tokens: int, on_asked: Callable[[], None]
) -> Measured:
    policies = (LlmOnly() if candidate.tau is None else Threshold(candidate.tau), LlmOnly())
    problems = [Problem(number, "", question.text, "") for number, question in enumerate(questions)]
    async with AsyncClient(address) as client:
        terms = Terms(max_new_tokens)
        systems = [Served(name, client, policy, terms) for name, policy in zip(_SYSTEMS, policies, strict=True)]

        def on_record(record: Record) -> None:
            if record.error:
                raise invalid("--data", f"question {record.problem + 1} is refused: {record.error}", "Leave it out.")
            if record.system == _SYSTEMS[0]:
                on_asked()

        plan = Plan(len(problems))
        records = await measure(systems, problems, Load(1), plan, practice=problems[:_WARM_UP], on_record=on_record)
    run = Run({}, [], records)
    return _measured(questions, run.of(_SYSTEMS[0]), run.of(_SYSTEMS[1]))


def _measured(questions: Sequence[Question], ours: Sequence[Record], alone: Sequence[Record]) -> Measured:
    n = len(ours)
    right, llm_right = (
        [_is_right(*each) for each in zip(questions, records, alone, strict=True)] for records in (ours, alone)
    )
    low, high = wilson(sum(right), n)
    num_tokens = sum(record.num_tokens for record in ours)
    ours_ms, alone_ms = ([record.latency_ms for record in records] for records in (ours, alone))
    _, speed_up_low, speed_up_high = paired_ratio(alone_ms, ours_ms)
    return Measured(
        n=n,
        accuracy=sum(right) / n,
        accuracy_low=low,
        accuracy_high=high,
        llm_accuracy=sum(llm_right) / n,
        llm_share=sum(record.count("llm_tokens") for record in ours) / max(1, num_tokens),
        switches=fmean(record.count("switches") for record in ours),
        tokens=num_tokens / n,
        latency_ms=fmean(ours_ms),
        llm_only_ms=fmean(alone_ms),
        speed_up_low=speed_up_low,
        speed_up_high=speed_up_high,
    )


def _is_right(question: Question, answer: Record, alone: Record) -> bool:
    """By the question's own check, else by what the LLM alone answers."""
    return question.is_right(answer.text) if question.is_right else agrees(alone.text)(answer.text)


def rank_correlations(pairs: Sequence[tuple[Candidate, Measured]]) -> dict[str, dict[str, float]]:
    """Kendall's tau-b and Spearman's rho of predicted with measured, by figure; nothing where all are alike."""
    found: dict[str, dict[str, float]] = {}
    for figure in ("speed_up", "llm_share", "switches", "tokens", "accuracy"):
        predicted = [getattr(candidate.proposed, figure) for candidate, _ in pairs]
        seen = [getattr(measured, figure) for _, measured in pairs]
        if len(set(predicted)) > 1 and len(set(seen)) > 1:
            found[figure] = {
                "kendall": float(stats.kendalltau(predicted, seen).statistic),
                "spearman": float(stats.spearmanr(predicted, seen).statistic),
            }
    return found
