"""From logits to a token: one pass over the distributions of a step.

A choice is a function of (seed, position + position_offset, logits) and of nothing else, but for penalties, which look
at the answer's tokens before it. The one random number of a position comes from a counter-based generator, and picks
the token by inverting the cumulative distribution. So a session gives the same tokens alone, in any batch and after a
restart wherever its logits are the same. That they are to the last bit only `--batch-invariant` (invariant.py)
promises: else rounding differs, which in 16 bits often makes another token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model_worker.engine.bookkeeping.signals import rounded
from model_worker.engine.bookkeeping.token_counts import Counted
from model_worker.engine.forward.inversion import GROUP, draw_later
from model_worker.engine.forward.kernels.availability import why_not
from model_worker.engine.forward.shaping import shaped
from model_worker.engine.forward.transfer import Later, to_device, to_host
from model_worker.engine.types import Sampling

_MASK = (1 << 64) - 1


def uniform(seed: int, position: int) -> float:
    """Returns a number in [0, 1) that is a function of its arguments and looks random (SplitMix64 of both)."""
    bits = _splitmix64(_splitmix64(seed & _MASK) ^ (position & _MASK))
    return (bits >> 11) * 2.0**-53


def _splitmix64(state: int) -> int:
    state = (state + 0x9E3779B97F4A7C15) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)


@dataclass(frozen=True, slots=True)
class Choices:
    """One row per distribution, on the host."""

    tokens: list[int]  # chosen by `choose`; before that the most probable ones
    # -sum p log p / log V; NaN where the logits are no distribution. `choose` rounds to float32, within [0, 1].
    entropies: list[float]
    logprobs: list[float]  # natural, at temperature 1


def choose(
    measured: Later[Choices],
    logits: Tensor,
    rows: Sequence[int],
    samplings: Sequence[Sampling],
    positions: Sequence[int],
    answer_of: Callable[[int], Counted | None] = lambda index: None,
) -> Later[Choices]:
    """Chooses a token for each of the `rows` of `logits` [n, vocab_size]; its position is the one it would take.

    Entropies and logprobs are of the model's own distribution (temperature 1, before all that a sampling does).
    `answer_of` gives what the penalties of one of them look at; it is called once each, in order.
    """
    reshaped = [index for index, sampling in enumerate(samplings) if sampling.shapes]
    random = [index for index, sampling in enumerate(samplings) if sampling.temperature > 0 and not sampling.shapes]
    draws = [_number(samplings[index], positions[index]) for index in random]
    drawn = draw_later(logits, [rows[index] for index in random], [samplings[index] for index in random], draws)
    others = _choose_shaped(logits, rows, samplings, positions, reshaped, answer_of) if reshaped else None

    def read() -> Choices:
        own = measured()
        tokens = [own.tokens[row] for row in rows]
        logprobs = [own.logprobs[row] for row in rows]
        # Rounding may leave [0, 1] by an ulp, but tau < 0 must be below and tau >= 1 above every entropy. NaN stays.
        entropies = [0.0 if (h := rounded(own.entropies[row])) < 0 else 1.0 if h > 1 else h for row in rows]
        for index, token, logprob in zip(random, *drawn(), strict=True):
            tokens[index], logprobs[index] = token, logprob
        if others is not None:
            for index, token, logprob in zip(reshaped, *others(), strict=True):
                tokens[index], logprobs[index] = token, logprob
        return Choices(tokens, entropies, logprobs)

    return read


def _number(sampling: Sampling, position: int) -> float:
    return uniform(sampling.seed, position + sampling.position_offset)


def _choose_shaped(
    logits: Tensor,
    rows: Sequence[int],
    samplings: Sequence[Sampling],
    positions: Sequence[int],
    indices: Sequence[int],
    answer_of: Callable[[int], Counted | None],
) -> Later[tuple[list[int], list[float]]]:
    """Chooses tokens where a bias or a penalty has a say: on a device, as each is read. A group of rows at a time."""
    groups = [indices[first : first + GROUP] for first in range(0, len(indices), GROUP)]
    later = [_choose_group(logits, rows, samplings, positions, group, answer_of) for group in groups]

    def read() -> tuple[list[int], list[float]]:
        made = [own() for own in later]
        return [token for tokens, _ in made for token in tokens], [value for _, values in made for value in values]

    return read


def _choose_group(
    logits: Tensor,
    rows: Sequence[int],
    samplings: Sequence[Sampling],
    positions: Sequence[int],
    indices: Sequence[int],
    answer_of: Callable[[int], Counted | None],
) -> Later[tuple[list[int], list[float]]]:
    own_rows, own = [rows[index] for index in indices], [samplings[index] for index in indices]
    random = [place for place, sampling in enumerate(own) if sampling.temperature > 0]
    draws = [_number(own[place], positions[indices[place]]) for place in random]

    answers = [answer_of(index) if samplings[index].penalizes else None for index in indices]
    made = shaped(logits, own_rows, own, answers)
    greedy = to_host(made.argmax(-1))
    # The shaped rows, eight bytes a logit, go now: for the few that are sorted after all they are made once more.
    drawn = draw_later(
        made, random, [own[place] for place in random], draws, again=lambda: shaped(logits, own_rows, own, answers)
    )
    on_device = to_device(torch.tensor(own_rows), logits.device)
    told = logits.index_select(0, on_device)
    sums = told.to(torch.promote_types(told.dtype, torch.float32)).logsumexp(-1)

    def read() -> tuple[list[int], list[float]]:
        tokens: list[int] = greedy.tolist()
        for place, token in zip(random, drawn()[0], strict=True):
            tokens[place] = token
        chosen = to_device(torch.tensor(tokens), logits.device)
        return tokens, (logits[on_device, chosen] - sums).tolist()

    return read


def measure(logits: Tensor) -> Tensor:
    """Returns each row's most probable token, its entropy in nats and that token's probability: [3, n], on the device.

    Float64 for float64, else float32. p log p is 0 where p underflows to 0, also where a logit is -inf.
    """
    if logits.is_cuda and not why_not(logits.device, logits.dtype):
        from model_worker.engine.forward.kernels.measuring import measure_fused

        return measure_fused(logits)
    tokens, entropies, probabilities = _measure(logits)
    return torch.stack([tokens.to(entropies.dtype), entropies, probabilities])


def unpack(results: Tensor, vocab_size: int) -> Choices:
    """Reads what `measure` returned; if that is on a device, in one copy."""
    # Ids are floats in it: float32 holds them exactly up to 2^24, far beyond any vocabulary.
    tokens, entropies, probabilities = results.tolist()
    return _measured([int(token) for token in tokens], entropies, probabilities, vocab_size)


def measure_on_host(logits: Tensor) -> Choices:
    """Does `unpack(measure(logits))` with fewer calls, for logits on the host."""
    tokens, entropies, probabilities = _measure(logits)
    return _measured(tokens.tolist(), entropies.tolist(), probabilities.tolist(), logits.shape[-1])


def margins(logits: Tensor, rows: Sequence[int]) -> Later[list[float]]:
    """Returns p1 - p2 of the two most probable tokens of each of the `rows` of `logits` [n, vocab_size]."""
    own = logits.index_select(0, to_device(torch.tensor(rows), logits.device))
    largest = to_host(own.softmax(-1, torch.promote_types(own.dtype, torch.float32)).topk(2).values)
    return lambda: [first - second for first, second in largest.tolist()]


def _measure(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # Few calls rather than few operations: each call is a hundredth of a tiny model's step.
    p = logits.softmax(-1, torch.promote_types(logits.dtype, torch.float32))
    return logits.argmax(-1), torch.special.entr(p).sum(-1), p.amax(-1)


def _measured(tokens: list[int], entropies: list[float], probabilities: list[float], vocab_size: int) -> Choices:
    scale = 1 / math.log(vocab_size)
    return Choices(tokens, [h * scale for h in entropies], [math.log(p) for p in probabilities])
