"""DAPO (Yu et al. 2025, arXiv 2503.14476) on the decisions of a routing policy. Pure functions of numbers.

A group is G answers to one question; an answer's actions are its decisions {SLM, LLM}, all with the answer's advantage.

As DAPO has it: clip-higher (epsilon_low 0.2, epsilon_high 0.28), the loss averaged over all actions of all answers and
not per answer (token-level), no KL term, advantages normalised in the group (as in GRPO), groups without a signal left
out (dynamic sampling).

Departures from it, each for a reason of this reward (R-Stitch+: r_acc - lambda * r_acc * L):
1. A group is without a signal if its answers all earn the same, not if they are all right or all wrong. The latency
   term makes right answers differ, and most of what there is to learn ("here the LLM was not
   needed") is in groups that are right throughout. `accuracy_only` gives DAPO's own rule.
2. The divisor of the advantages is max(group's std, `std_floor`). By itself a group of right answers has a std of a few
   thousandths; dividing by it would blow a millisecond up to the weight of a right answer, whatever lambda says.
   std_floor = 0 gives DAPO's own rule.
3. There is no overlong shaping: an answer that reaches the limit is wrong already.
4. Dynamic sampling gives up after `max_rounds` batches of questions; the step then has fewer groups.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SAME = 1e-6


def rewards(right: Tensor, latency_ms: Tensor, price: float) -> Tensor:
    """r_acc - lambda * r_acc * L: a wrong answer gains nothing by being fast (R-Stitch+).

    Args:
        right: 0 or 1, any shape.
        latency_ms: modelled, of the same shape.
        price: lambda, per ms.
    """
    return right * (1 - price * latency_ms)


def has_signal(rewards: Tensor) -> bool:
    """Whether the answers of a group differ in what they earned."""
    return bool((rewards - rewards[0]).abs().max() > _SAME)


def advantages(rewards: Tensor, std_floor: float = 0.0) -> Tensor:
    """Of answers [groups, G], normalised in their group."""
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    std = rewards.std(dim=1, correction=0, keepdim=True).clamp_min(max(std_floor, _SAME))
    return centred / std


def loss(new: Tensor, old: Tensor, advantages: Tensor, epsilon_low: float, epsilon_high: float) -> Tensor:
    """The clipped surrogate, averaged over actions.

    Args:
        new, old: log-probabilities of the actions taken, [actions]; `old` without gradient.
        advantages: of the answers that they belong to, [actions].
    """
    ratio = torch.exp(new - old)
    clipped = ratio.clamp(1 - epsilon_low, 1 + epsilon_high)
    return -torch.minimum(ratio * advantages, clipped * advantages).mean()
