"""Algorithm 1 of R-Stitch (arXiv 2507.17307) in the fewest clear lines: no cache, no batch, no service.

The oracle of the served system: slow, and right by being short. Each position is a whole forward of one model.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch

Author: TypeAlias = Literal["slm", "llm"]
Signal: TypeAlias = Literal["entropy", "confidence", "margin", "entropy_window"]


@dataclass(frozen=True, slots=True)
class Token:
    """A kept token: its id, who wrote it, its distribution's entropy in [0, 1], and the value that was compared."""

    id: int
    model: Author
    entropy: float
    uncertainty: float


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
    signal: Signal = "entropy",
    window: int = 0,
) -> list[Token]:
    """Greedy R-Stitch decoding.

    Args:
        slm, llm: transformers causal LMs that share a tokenizer of `vocab_size` entries.
        prompt: token ids, at least one.
        tau: an SLM token with a signal > tau is discarded and the LLM writes that position.
        tau_return: after an LLM token with a signal <= tau_return the SLM goes on; None: tau.
        max_new_tokens: only kept tokens count.
        stop_tokens: end the answer and are kept.
        signal: entropy, 1 - p of the token, 1 - (p1 - p2) of the two most probable, or the mean entropy of the last
            `window` tokens of the answer, this one included, each as float32.
    """
    tau_return = tau if tau_return is None else tau_return
    output: list[Token] = []
    active: Author = "slm"
    while len(output) < max_new_tokens and not (output and output[-1].id in stop_tokens):
        model = slm if active == "slm" else llm
        token, entropy, first, second = _next(model, [*prompt, *(token.id for token in output)], vocab_size)
        value = {"entropy": entropy, "confidence": 1 - first, "margin": 1 - (first - second)}.get(signal, 0.0)
        if signal == "entropy_window":
            recent = [_float32(token.entropy) for token in output][1 - window :] if window > 1 else []
            value = sum([*recent, _float32(entropy)]) / (len(recent) + 1)
        if active == "slm" and value > tau:
            active = "llm"
            continue
        output.append(Token(token, active, entropy, value))
        if active == "llm" and value <= tau_return:
            active = "slm"
    return output


def route(
    slm: Any,
    llm: Any,
    prompt: Sequence[int],
    *,
    author: Callable[[int], Author],
    max_new_tokens: int,
    stop_tokens: Collection[int],
    vocab_size: int,
) -> list[Token]:
    """Greedy decoding in which the author of each position is known beforehand, as with random routing."""
    output: list[Token] = []
    while len(output) < max_new_tokens and not (output and output[-1].id in stop_tokens):
        tokens = [*prompt, *(token.id for token in output)]
        name = author(len(tokens))
        token, entropy, _, _ = _next(slm if name == "slm" else llm, tokens, vocab_size)
        output.append(Token(token, name, entropy, entropy))
    return output


@torch.inference_mode()
def _next(model: Any, tokens: list[int], vocab_size: int) -> tuple[int, float, float, float]:
    """The most probable next token, the entropy of its distribution, -sum p log p / log V, and the two largest p."""
    logits = model(torch.tensor([tokens]), use_cache=False, logits_to_keep=1).logits[0, -1, :vocab_size]
    if logits.dtype != torch.float64:
        logits = logits.float()
    probabilities = torch.softmax(logits, dim=-1)
    entropy = float(torch.special.entr(probabilities).sum() / math.log(vocab_size))
    first, second = probabilities.topk(2).values.tolist()
    return int(logits.argmax()), min(max(entropy, 0.0), 1.0), first, second


def _float32(value: float) -> float:
    return array("f", [value])[0]
