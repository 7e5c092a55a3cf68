"""A supervised start for the head (ours, not the paper's): dense labels that cost no rollout.

Whether the SLM's token is wrong at a place where it is unsure is what a head must know first; what a wrong token costs
in the end, and what a call of the LLM does, it learns from rewards (`train`). Where states come from it does not know.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from training.head.mlp import Policy
from training.head.warm_start.states import States

_BATCH_STATES = 512
_WEIGHT_DECAY = 1.0
_WARM_UP = 100


def fit(policy: Policy, states: States, epochs: int, lr: float, seed: int, on_epoch: Callable[[float], None]) -> None:
    """Trains the difference of the logits to be that of P(wrong).

    Args:
        lr: the highest learning rate: it rises for 100 steps, then falls to nothing.
        on_epoch: told the mean loss of each pass.
    """
    order = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=lr, weight_decay=_WEIGHT_DECAY)
    num_batches = max(1, len(states.wrong) // _BATCH_STATES)
    num_steps, step = epochs * num_batches, 0
    for _ in range(epochs):
        losses = []
        for chosen in np.array_split(order.permutation(len(states.wrong)), num_batches):
            step += 1
            optimizer.param_groups[0]["lr"] = lr * min(1, step / _WARM_UP) * (1 - step / num_steps)
            log_p = policy(states.inputs[chosen])
            loss = binary_cross_entropy_with_logits(log_p[:, 1] - log_p[:, 0], states.wrong[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        on_epoch(float(np.mean(losses)))


def lean(policy: Policy, error: float) -> None:
    """Moves the decision from P(wrong) > 1/2 to P(wrong) > `error`."""
    bias = policy.layers[-1].bias
    assert isinstance(bias, Tensor)
    with torch.no_grad():
        bias[1] += math.log((1 - error) / error)
