"""Moved."""

from __future__ import annotations

from collections.abc import Sequence

from model_worker.engine.bookkeeping.scheduler import Run
from model_worker.engine.forward.runner import Outcome
from model_worker.engine.types import (
    Handoff,
    Proposal,
    Returns,
)


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two rows begin with in common."""
    pairs = zip(left, right, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))


def _leaves(run: Run, handoff: Handoff, outcome: Outcome, index: int) -> bool:
    """Whether a run whose signal is above its bound gives the pen back: yes, unless its hand-off asks and hears no."""
    if handoff.asks is None:
        return True
    run.num_consultations += 1
    return handoff.asks(outcome.hidden_state(index), len(run.session.tokens))


def _proposal(outcome: Outcome, index: int, returns: Returns, uncertainty: float | None = None) -> Proposal:
    choices = outcome.choices
    vocab_size = outcome.logits.shape[1]
    return Proposal(
        token=choices.tokens[index],
        entropy=choices.entropies[index],
        logprob=choices.logprobs[index],
        uncertainty=uncertainty,
        hidden_state=outcome.hidden_state(index) if returns.hidden_state else b"",
        logits=outcome.raw_logits(index) if returns.top_logits == -1 else b"",
        top_logits=outcome.top_logits(index, min(returns.top_logits, vocab_size)) if returns.top_logits > 0 else (),
    )
