"""The real stack beside the prediction: each candidate is served with the LLM and asked, then asked of the LLM alone.

The questions are others than those that were predicted from. One at a time and in turn, so that noise hits both alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy import stats

from evals.figures.statistics import wilson
from evals.pairs.predict import Candidate
from evals.pairs.questions import Question, agrees
from rstitch.client.aio import AsyncClient
from rstitch.client.types import Answer, LlmOnly, Message, Policy, Threshold
from rstitch.local.stack import LocalStack

_WARM_UP = 2


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

    @property
    def speed_up(self) -> float:
        """LLM-only over stitched."""
        return self.llm_only_ms / self.latency_ms

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        return {**asdict(self), "speed_up": self.speed_up}


def measure(
    llm: str,
    candidate: Candidate,
    questions: Sequence[Question],
    max_new_tokens: int,
    on_asked: Callable[[], None],
    **stack: Any,
) -> Measured:
    """Starts a stack with the pair, asks, stops it. Raises: StackError, RstitchError."""
    with LocalStack(slm_model=candidate.name, llm_model=llm, **stack) as served:
        return asyncio.run(_ask(served.router_address, candidate, questions, max_new_tokens, on_asked))


async def _ask(
    address: str, candidate: Candidate, questions: Sequence[Question], max_new_tokens: int, on_asked: Callable[[], None]
) -> Measured:
    stitched_policy: Policy = LlmOnly() if candidate.tau is None else Threshold(candidate.tau)
    pairs: list[tuple[Answer, Answer]] = []
    async with AsyncClient(address) as client:

        async def answer(question: Question, policy: Policy) -> Answer:
            chat = [Message("user", question.text)]
            return await client.answer(chat=chat, policy=policy, max_new_tokens=max_new_tokens, guard=False)

        for question in questions[:_WARM_UP]:
            for policy in (stitched_policy, LlmOnly()):
                await answer(question, policy)
        for question in questions:
            pairs.append((await answer(question, stitched_policy), await answer(question, LlmOnly())))
            on_asked()
    return _measured(questions, pairs)


def _measured(questions: Sequence[Question], pairs: Sequence[tuple[Answer, Answer]]) -> Measured:
    n = len(pairs)
    right = [_is_right(question, ours, alone) for question, (ours, alone) in zip(questions, pairs, strict=True)]
    llm_right = [_is_right(question, alone, alone) for question, (_, alone) in zip(questions, pairs, strict=True)]
    usages = [ours.finished.usage for ours, _ in pairs]
    low, high = wilson(sum(right), n)
    num_tokens = sum(usage.num_tokens for usage in usages)
    return Measured(
        n=n,
        accuracy=sum(right) / n,
        accuracy_low=low,
        accuracy_high=high,
        llm_accuracy=sum(llm_right) / n,
        llm_share=sum(usage.num_llm_tokens for usage in usages) / max(1, num_tokens),
        switches=sum(usage.num_switches for usage in usages) / n,
        tokens=num_tokens / n,
        latency_ms=sum(usage.total_time_us for usage in usages) / n / 1000,
        llm_only_ms=sum(alone.finished.usage.total_time_us for _, alone in pairs) / n / 1000,
    )


def _is_right(question: Question, answer: Answer, alone: Answer) -> bool:
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
