"""Which of the heads that were looked at on dev is taken."""

from __future__ import annotations

from collections.abc import Sequence

from training.head.dual import Dual
from training.head.train import Look


def best_look(looks: Sequence[Look], dual: Dual, llm_accuracy: float, price: float) -> Look:
    """The look that serves what was asked for best; of equal ones the first.

    Fixed price: the highest reward. A loss: of those that keep it on dev the fastest, else the most accurate. A speed:
    of those that are as fast the most accurate, else the fastest.

    Args:
        llm_accuracy: of the LLM alone on dev.
        price: lambda of a fixed price.
    """
    if dual.kind == "loss":
        wanted = llm_accuracy - dual.loss
        kept = [look for look in looks if look.figures.accuracy >= wanted]
        if kept:
            return min(kept, key=lambda look: look.figures.latency_ms)
        return max(looks, key=lambda look: (look.figures.accuracy, -look.figures.latency_ms))
    if dual.kind == "speed":
        fast = [look for look in looks if look.figures.latency_ms <= dual.wanted]
        if fast:
            return max(fast, key=lambda look: (look.figures.accuracy, -look.figures.latency_ms))
        return min(looks, key=lambda look: look.figures.latency_ms)
    return max(looks, key=lambda look: look.figures.reward(price))
