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


@dataclass(frozen=True, slots=True)
class EarlyExit:
    """DEER (arXiv 2504.15895).

    Attributes:
        threshold: a trial whose mean token probability is above it ends the thinking.
        boundaries: a trial follows each token whose text contains one of these.
        prompt: token ids that ask for the answer.
        end: a trial ends with a token whose text contains this, or after `max_trial_tokens`.
        thinking_end: once the answer's text contains this there are no more trials.
        text: of tokens.
    """

    threshold: float
    boundaries: tuple[str, ...]
    prompt: tuple[int, ...]
    end: str
    max_trial_tokens: int
    thinking_end: str
    text: Callable[[Sequence[int]], str]


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
        values = {"entropy": entropy, "confidence": _float32(1 - first), "margin": _float32(1 - (first - second))}
        value = values.get(signal, 0.0)
        if signal == "entropy_window":
            recent = [token.entropy for token in output][1 - window :] if window > 1 else []
            value = sum([*recent, entropy]) / (len(recent) + 1)
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


def stitch_learned(
    slm: Any,
    llm: Any,
    prompt: Sequence[int],
    *,
    tau: float,
    wants_llm: Callable[[bytes, int], bool],
    max_new_tokens: int,
    stop_tokens: Collection[int],
    vocab_size: int,
) -> list[Token]:
    """Greedy R-Stitch+: `stitch`, but where the SLM's entropy is > tau a head says whether its token is discarded.

    Args:
        wants_llm: the head; its arguments are the SLM's last hidden state after the final norm, as float32 bytes, and
            the number of tokens before the position.
    """
    output: list[Token] = []
    active: Author = "slm"
    while len(output) < max_new_tokens and not (output and output[-1].id in stop_tokens):
        tokens = [*prompt, *(token.id for token in output)]
        token, entropy, _, _ = _next(slm if active == "slm" else llm, tokens, vocab_size)
        if active == "slm" and entropy > tau and wants_llm(_hidden_state(slm, tokens), len(tokens)):
            active = "llm"
            continue
        output.append(Token(token, active, entropy, entropy))
        if active == "llm" and entropy <= tau:
            active = "slm"
    return output


def stitch_exiting(
    slm: Any,
    llm: Any,
    prompt: Sequence[int],
    early_exit: EarlyExit,
    *,
    tau: float,
    max_new_tokens: int,
    stop_tokens: Collection[int],
    vocab_size: int,
) -> tuple[list[Token], tuple[int, float] | None]:
    """Greedy R-Stitch with early exit: after a boundary, who has the pen tries an answer, and keeps it if it is sure.

    Returns: the tokens; where the thinking ended early, if it did, and how sure the trial was.
    """
    output: list[Token] = []
    active: Author = "slm"
    exited: tuple[int, float] | None = None
    num_tried = 0
    while len(output) < max_new_tokens and not (output and output[-1].id in stop_tokens):
        model, ids = slm if active == "slm" else llm, [token.id for token in output]
        room = min(early_exit.max_trial_tokens, max_new_tokens - len(output) - len(early_exit.prompt))
        at_boundary = any(boundary in early_exit.text(ids[-1:]) for boundary in early_exit.boundaries)
        thinking = exited is None and early_exit.thinking_end not in early_exit.text(ids)
        if at_boundary and thinking and room > 0 and num_tried < len(output):
            num_tried = len(output)
            trial = [Token(token, active, 0.0, 0.0) for token in early_exit.prompt]
            probabilities: list[float] = []
            while len(probabilities) < room and not (
                probabilities and (trial[-1].id in stop_tokens or early_exit.end in early_exit.text([trial[-1].id]))
            ):
                token, entropy, first, _ = _next(model, [*prompt, *ids, *(t.id for t in trial)], vocab_size)
                trial.append(Token(token, active, entropy, entropy))
                probabilities.append(first)
            confidence = sum(probabilities) / len(probabilities)
            if confidence > early_exit.threshold:
                exited = len(prompt) + len(output), confidence
                output += trial
                if active == "llm" and output[-1].entropy <= tau:
                    active = "slm"
            continue
        token, entropy, _, _ = _next(model, [*prompt, *ids], vocab_size)
        if active == "slm" and entropy > tau:
            active = "llm"
            continue
        output.append(Token(token, active, entropy, entropy))
        if active == "llm" and entropy <= tau:
            active = "slm"
    return output, exited


@torch.inference_mode()
def _hidden_state(model: Any, tokens: list[int]) -> bytes:
    """What the LM head gets for the last token."""
    states = model.base_model(torch.tensor([tokens]), use_cache=False).last_hidden_state
    raw: bytes = states[0, -1].float().numpy().tobytes()
    return raw


@torch.inference_mode()
def _next(model: Any, tokens: list[int], vocab_size: int) -> tuple[int, float, float, float]:
    """The most probable next token, the entropy of its distribution, and the two largest p.

    The entropy is -sum p log p / log V as it is served, in float32.
    """
    logits = model(torch.tensor([tokens]), use_cache=False, logits_to_keep=1).logits[0, -1, :vocab_size]
    if logits.dtype != torch.float64:
        logits = logits.float()
    probabilities = torch.softmax(logits, dim=-1)
    entropy = float(torch.special.entr(probabilities).sum() / math.log(vocab_size))
    first, second = probabilities.topk(2).values.tolist()
    return int(logits.argmax()), _float32(min(max(entropy, 0.0), 1.0)), first, second


def _float32(value: float) -> float:
    return array("f", [value])[0]
