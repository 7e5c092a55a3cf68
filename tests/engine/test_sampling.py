"""The measuring of distributions, against float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from model_worker.engine.forward.sampling import Choices, measure, measure_on_host, unpack

Measure = Callable[[Tensor], Choices]


def measure_as_on_a_device(logits: Tensor) -> Choices:
    return unpack(measure(logits), logits.shape[-1])


@pytest.mark.parametrize("measure", [measure_as_on_a_device, measure_on_host])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_entropy_token_and_logprob_equal_those_in_float64(measure: Measure, scale: float) -> None:
    logits = torch.randn(7, 5000, generator=torch.Generator().manual_seed(3)) * scale
    logits[1, 17:90] = float("-inf")
    logits[2, 44] = 1e4  # sure of it: entropy is exactly 0
    exact = logits.double().log_softmax(-1)
    entropy = torch.special.entr(exact.exp()).sum(-1) / math.log(5000)
    found = measure(logits)
    tokens, entropies, logprobs = found.tokens, found.entropies, found.logprobs
    assert tokens == logits.argmax(-1).tolist()
    torch.testing.assert_close(torch.tensor(entropies, dtype=torch.float64), entropy, atol=1e-6, rtol=1e-5)
    chosen = exact.gather(-1, torch.tensor(tokens)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(logprobs, dtype=torch.float64), chosen, atol=2e-6, rtol=1e-5)
    assert entropies[2] == 0


@pytest.mark.parametrize("measure", [measure_as_on_a_device, measure_on_host])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_no_distribution_have_no_entropy(measure: Measure, bad: float) -> None:
    logits = torch.randn(2, 50)
    logits[0, 7] = bad
    entropies = measure(logits).entropies
    assert math.isnan(entropies[0])
    assert not math.isnan(entropies[1])
