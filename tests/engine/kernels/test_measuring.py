"""Measuring against float64: parts of rows, padding of the LM head, infinities and NaN."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from model_worker.engine.forward.kernels.measuring import measure_fused


def check(logits: Tensor) -> None:
    tokens, entropies, probabilities = measure_fused(logits).cpu()
    logits = logits.cpu()
    exact = logits.double().log_softmax(-1)
    whole = ~(logits.isnan().any(-1) | (logits == math.inf).any(-1) | (logits == -math.inf).all(-1))
    assert tokens[whole].long().tolist() == logits[whole].argmax(-1).tolist()
    entropy = torch.special.entr(exact.exp()).sum(-1)
    torch.testing.assert_close(entropies[whole].double(), entropy[whole], atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(probabilities[whole].double(), exact[whole].amax(-1).exp(), atol=0, rtol=2e-5)
    assert entropies[~whole].isnan().all(), "what is no distribution has no entropy"


def awkward(device: torch.device) -> Tensor:
    """Rows [8, 9008]; the last seven columns stand for an LM head's padding and would win if they were looked at."""
    generator = torch.Generator().manual_seed(1)
    scales = torch.tensor([0.0, 1, 5, 30, 1, 1, 1, 1])
    rows = torch.randn(8, 9008, generator=generator) * scales[:, None]
    rows[1, :5000] = -math.inf
    rows[4, 77] = math.nan
    rows[5, 9] = math.inf
    rows[6] = -math.inf
    rows[7, 8990] = rows[7, 3] = 50
    rows[:, 9001:] = 1e9
    return rows.to(device)


def test_padding_of_the_head_is_read_and_counts_for_nothing(device: torch.device) -> None:
    check(awkward(device)[:, :9001])
    check(awkward(device)[2:3, :9001])


def test_rows_without_room_for_wide_loads(device: torch.device) -> None:
    check(awkward(device)[:, :9001].contiguous())
    check(awkward(device)[:, :300].clone())


def test_a_real_vocabulary_in_half_precision(device: torch.device) -> None:
    logits = torch.randn(2, 151_936, generator=torch.Generator().manual_seed(2)) * 4
    check(logits.to(device, torch.float16)[:, :151_665])
