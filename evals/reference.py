"""Algorithm 1 of R-Stitch (arXiv 2507.17307) in the fewest clear lines: no cache, no batch, no service.

The oracle of the served system: slow, and right by being short. Each position is a whole forward of one model.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch


@dataclass(frozen=True, slots=True)
class Token:
    """A kept token: its id, who wrote it, and the entropy of its distribution in [0, 1]."""

    id: int
    model: Literal["slm", "llm"]
    entropy: float


def stitch(
    slm: Any,
    llm: Any,
    prompt: Sequence[int],
    *,
    tau: float,
    tau_return: float | None = None,
    max_new_tokens: int,
    stop_tokens: Collection[int],
    vocab_size: int,
) -> list[Token]:
    """Greedy R-Stitch decoding.

    Args:
        slm, llm: transformers causal LMs that share a tokenizer of `vocab_size` entries.
        prompt: token ids, at least one.
        tau: an SLM token with entropy > tau is discarded and the LLM writes that position.
        tau_return: after an LLM token with entropy <= tau_return the SLM goes on; None: tau.
        max_new_tokens: only kept tokens count.
        stop_tokens: end the answer and are kept.
    """
    tau_return = tau if tau_return is None else tau_return
    output: list[Token] = []
    active: Literal["slm", "llm"] = "slm"
    while len(output) < max_new_tokens and not (output and output[-1].id in stop_tokens):
        model = slm if active == "slm" else llm
        token, entropy = _next(model, [*prompt, *(token.id for token in output)], vocab_size)
        if active == "slm" and entropy > tau:
            active = "llm"
            continue
        output.append(Token(token, active, entropy))
        if active == "llm" and entropy <= tau_return:
            active = "slm"
    return output


@torch.inference_mode()
def _next(model: Any, tokens: list[int], vocab_size: int) -> tuple[int, float]:
    """The most probable next token and the entropy of its distribution, -sum p log p / log V."""
    logits = model(torch.tensor([tokens]), use_cache=False, logits_to_keep=1).logits[0, -1, :vocab_size]
    if logits.dtype != torch.float64:
        logits = logits.float()
    probabilities = torch.softmax(logits, dim=-1)
    entropy = float(torch.special.entr(probabilities).sum() / math.log(vocab_size))
    return int(logits.argmax()), min(max(entropy, 0.0), 1.0)
