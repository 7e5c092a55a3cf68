"""Draws tokens by inverting cumulative distributions, in float64 and in order of falling probability.

A token is that of the row sorted as a whole. Sorting 152k numbers a row is what costs, and nearly always the token is
among the first of them: those alone are sorted, with bounds on what the rest can be, and where the bounds do not decide
which token it is, the row is sorted after all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from model_worker.engine.forward.transfer import Later, to_device, to_host
from model_worker.engine.types import Sampling

FIRST = 2048  # how many of the most probable tokens are sorted
GROUP = 8  # rows at once: each takes some ten numbers of 8 bytes for each token of the vocabulary
# More than float64 can be wrong by in a sum of any vocabulary's probabilities (2^18 * 2^-53 = 3e-11).
_ROUNDING = 1e-10


def draw(
    logits: Tensor,
    rows: Sequence[int],
    samplings: Sequence[Sampling],
    draws: Sequence[float],
    first: int = FIRST,
) -> tuple[list[int], list[float]]:
    """Returns for each of the `rows` of `logits` [n, vocab_size] a token and its logprob at temperature 1.

    `draws` are numbers in [0, 1), one a row. Numbers go to the device in one copy and come back in one. The `first`
    tokens are sorted before the row is, if need be; with 0 each row is sorted as a whole. That changes no token.
    """
    return draw_later(logits, rows, samplings, draws, first)()


def draw_later(
    logits: Tensor,
    rows: Sequence[int],
    samplings: Sequence[Sampling],
    draws: Sequence[float],
    first: int = FIRST,
    again: Callable[[], Tensor] | None = None,
) -> Later[tuple[list[int], list[float]]]:
    """Does what `draw` does without waiting for the device, except that a row that has to be sorted is sorted when it
    is read.

    Until then `logits` must stay, or `again` makes them once more; then they are not kept here.
    """
    if not rows:
        return lambda: ([], [])
    numbers = [
        (row, s.temperature, s.top_p, s.top_k or logits.shape[-1], s.min_p, u)
        for row, s, u in zip(rows, samplings, draws, strict=True)
    ]
    on_device = to_device(torch.tensor(numbers, dtype=torch.float64), logits.device)
    if first == 0:
        return lambda: _sorted_whole(logits, on_device)
    parts = [_draw_group(logits[group[:, 0].long()], group, first) for group in on_device.split(GROUP)]
    drawn = to_host(torch.cat(parts, 1))
    source = again or (lambda: logits)

    def read() -> tuple[list[int], list[float]]:
        tokens, logprobs, decided = drawn.tolist()  # float64 holds every id
        found = [int(token) for token in tokens]
        if undecided := [index for index, is_decided in enumerate(decided) if not is_decided]:
            for index, token, logprob in zip(undecided, *_sorted_whole(source(), on_device[undecided]), strict=True):
                found[index], logprobs[index] = token, logprob
        return found, logprobs

    return read


def _sorted_whole(logits: Tensor, numbers: Tensor) -> tuple[list[int], list[float]]:
    parts = [_sort_group(logits[group[:, 0].long()], group) for group in numbers.split(GROUP)]
    tokens, logprobs = torch.cat(parts, 1).tolist()
    return [int(token) for token in tokens], logprobs


def _draw_group(logits: Tensor, numbers: Tensor, first: int) -> Tensor:
    """Returns tokens, logprobs and whether these are decided, float64 [3, rows]."""
    _, temperature, top_p, top_k, min_p, u = numbers.split(1, dim=1)
    all_of_them = _probabilities(logits, temperature)
    count = min(first, logits.shape[-1])
    # By probability, and equal ones by id: `topk` takes any of those that equal the last it takes.
    ids = all_of_them.topk(count, dim=-1, sorted=False).indices.sort(dim=-1).values
    p, order = all_of_them.gather(-1, ids).sort(dim=-1, descending=True, stable=True)
    ids = ids.gather(-1, order)
    # Ranks below num_known are those in the sorted row. Beyond, there are others as probable as the last one here.
    #
    #   p        |-- num_known --|- equal to the last -| not looked at ...
    #   rank     0               num_known              count
    last = p[:, -1:]
    is_known = p > last if count < logits.shape[-1] else torch.ones_like(p, dtype=torch.bool)
    num_known = is_known.sum(-1, keepdim=True)
    cumulative = p.cumsum(-1)
    keep = _kept(p, cumulative, top_p, top_k, min_p) & is_known
    kept = torch.where(keep, p, 0.0).cumsum(-1)
    known_mass, mass = (p * is_known).sum(-1, keepdim=True), kept[:, -1:]
    # The nucleus ends among the known: all of it is here, and so is its mass. Else its mass is bounded: it has top_p or
    # all there is, and less than one more token would add, unless top_k ends it before.
    is_whole = (top_k <= num_known) | (known_mass >= top_p + _ROUNDING) | (num_known == logits.shape[-1])
    is_whole |= min_p * p[:, :1] > last
    least = torch.where(top_k < logits.shape[-1], mass, top_p) - _ROUNDING
    most = (top_p + last).clamp_max(1.0) + _ROUNDING
    lower = torch.searchsorted(kept, u * torch.where(is_whole, mass, least), right=True)
    chosen = torch.searchsorted(kept, u * torch.where(is_whole, mass, most), right=True)
    # By min_p less mass may be left than these bounds say: then the row is sorted.
    is_between = (lower == chosen) & (chosen < num_known) & (min_p == 0)
    decided = torch.where(is_whole, keep.any(-1, keepdim=True), is_between)
    # Rounding can lead past the last kept token.
    token = ids.gather(-1, torch.minimum(chosen, (keep.sum(-1, keepdim=True) - 1).clamp_min(0)))
    return torch.cat([token.double(), _logprob(logits, token), decided.double()], 1).T


def _sort_group(logits: Tensor, numbers: Tensor) -> Tensor:
    """Does the same by sorting rows as a whole, which decides any; returns tokens and logprobs, float64 [2, rows]."""
    _, temperature, top_p, top_k, min_p, u = numbers.split(1, dim=1)
    # Stable: equal probabilities stay in order of id, so that the order is a function of the logits alone.
    p, ids = _probabilities(logits, temperature).sort(dim=-1, descending=True, stable=True)
    keep = _kept(p, p.cumsum(-1), top_p, top_k, min_p)
    kept = torch.where(keep, p, 0.0).cumsum(-1)
    # The token whose share of the cumulative mass the random number falls into:
    #
    #   0 |---- ids[0] ----|-- ids[1] --|- ids[2] -| ... | mass of the nucleus       target = u * that mass
    chosen = torch.searchsorted(kept, u * kept[:, -1:], right=True)
    last = (keep.sum(-1, keepdim=True) - 1).clamp_min(0)  # none is kept of a row of NaN
    token = ids.gather(-1, torch.minimum(chosen, last))
    return torch.cat([token.double(), _logprob(logits, token)], 1).T


def _probabilities(logits: Tensor, temperature: Tensor) -> Tensor:
    # The largest becomes 0 first: a temperature near 0 then gives the greedy choice, not infinities and NaN.
    return torch.softmax((logits.double() - logits.amax(-1, keepdim=True).double()) / temperature, dim=-1)


def _kept(p: Tensor, cumulative: Tensor, top_p: Tensor, top_k: Tensor, min_p: Tensor) -> Tensor:
    """Returns which tokens, by falling probability, may be drawn: those with less mass before them than top_p.

    Of these, only the first `top_k`, and those that have at least `min_p` times the probability of the first.
    """
    # One without any mass is never drawn, not even where rounding leads to the last that is kept.
    among_first = torch.arange(p.shape[-1], device=p.device) < top_k
    return among_first & (cumulative - p < top_p) & (p >= min_p * p[:, :1]) & (p > 0)


def _logprob(logits: Tensor, token: Tensor) -> Tensor:
    wide = torch.promote_types(logits.dtype, torch.float32)
    return logits.log_softmax(-1, wide).gather(-1, token).double()
