"""From logits to a token: one pass over the distributions of a step.

A choice is a function of (seed, position, logits) and of nothing else, so that a session gives the same tokens alone,
in any batch, on any worker and after a restart: the one random number of a position comes from a counter-based
generator, and picks the token by inverting the cumulative distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model_worker.engine.types import Sampling

_MASK = (1 << 64) - 1


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1), the same for equal arguments, as if random for others (SplitMix64 of seed and position)."""
    bits = _splitmix64(_splitmix64(seed & _MASK) ^ (position & _MASK))
    return (bits >> 11) * 2.0**-53


def _splitmix64(state: int) -> int:
    state = (state + 0x9E3779B97F4A7C15) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)


@dataclass(frozen=True, slots=True)
class Choices:
    """One row per distribution, on the host.

    Attributes:
        tokens: chosen ids.
        entropies: -sum p log p / log V, in [0, 1]; NaN where the logits are no distribution.
        logprobs: natural log of the chosen tokens' probabilities at temperature 1.
    """

    tokens: list[int]
    entropies: list[float]
    logprobs: list[float]


def choose(logits: Tensor, samplings: Sequence[Sampling], positions: Sequence[int]) -> Choices:
    """Chooses a token per row and measures the row's own distribution (temperature 1, before top-k and top-p).

    Args:
        logits: float32 or float64, [rows, vocab_size], real vocabulary only.
        samplings: one per row.
        positions: the position that each row's token would take.
    """
    logprobs = torch.log_softmax(logits, dim=-1)
    # entr(p) is -p log p with entr(0) = 0. Rounding may leave [0, 1] by an ulp; tau < 0 and tau >= 1 need it inside.
    entropy = torch.special.entr(logprobs.exp()).sum(-1) / math.log(logits.shape[-1])
    tokens = logits.argmax(-1)
    random_rows = [row for row, sampling in enumerate(samplings) if sampling.temperature > 0]
    if random_rows:
        index = torch.tensor(random_rows, device=logits.device)
        tokens[index] = _sample(
            logits[index], [samplings[row] for row in random_rows], [positions[row] for row in random_rows]
        )
    chosen = logprobs.gather(-1, tokens[:, None])[:, 0]
    # One copy to the host; float64 holds token ids exactly.
    packed = torch.stack([tokens.double(), entropy.clamp(0.0, 1.0).double(), chosen.double()]).tolist()
    return Choices([int(token) for token in packed[0]], packed[1], packed[2])


def _sample(logits: Tensor, samplings: Sequence[Sampling], positions: Sequence[int]) -> Tensor:
    """Token ids, int64 [rows], by inversion in float64 in order of falling probability."""
    device = logits.device

    def column(values: list[float] | list[int], dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)[:, None]

    vocab_size = logits.shape[-1]
    # The largest becomes 0 first: a temperature near 0 then gives the greedy choice, not infinities and NaN.
    shifted = logits.double() - logits.amax(-1, keepdim=True).double()
    scaled = shifted / column([sampling.temperature for sampling in samplings])
    # Stable: equal probabilities stay in order of id, so that the order is a function of the logits alone.
    probabilities, ids = torch.softmax(scaled, dim=-1).sort(dim=-1, descending=True, stable=True)
    cumulative = probabilities.cumsum(-1)
    rank = torch.arange(vocab_size, device=device)
    top_k = column([sampling.top_k or vocab_size for sampling in samplings], torch.int64)
    top_p = column([sampling.top_p for sampling in samplings])
    # A token is in the nucleus if the mass before it is short of top_p.
    keep = (rank < top_k) & (cumulative - probabilities < top_p)
    cumulative = torch.where(keep, probabilities, 0.0).cumsum(-1)
    target = column([uniform(s.seed, position) for s, position in zip(samplings, positions, strict=True)])
    chosen = torch.searchsorted(cumulative, target * cumulative[:, -1:], right=True)
    # Rounding can lead past the last kept token.
    last = (keep.sum(-1, keepdim=True) - 1).clamp_min(0)  # none is kept of a row of NaN
    return ids.gather(-1, torch.minimum(chosen, last))[:, 0]
