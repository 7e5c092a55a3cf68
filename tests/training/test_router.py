"""What DAPO computes against naive numbers, and what a head's recall counts."""

from __future__ import annotations

import math
import random

import pytest
import torch

from training.head import dapo
from training.head.studies.recall import recall


def test_the_loss_is_dapos() -> None:
    rng = random.Random(0)
    new, old, advantages = ([rng.uniform(-2, 0) for _ in range(60)] for _ in range(3))
    advantages = [value + 1 for value in advantages]
    expected = 0.0
    for a, b, advantage in zip(new, old, advantages, strict=True):
        ratio = math.exp(a - b)
        expected -= min(ratio * advantage, min(max(ratio, 0.8), 1.28) * advantage) / len(new)
    got = dapo.loss(torch.tensor(new), torch.tensor(old), torch.tensor(advantages), 0.2, 0.28)
    assert float(got) == pytest.approx(expected, rel=1e-5)


def test_a_clipped_action_teaches_nothing() -> None:
    for new, advantage in ((0.3, 1.0), (-0.3, -1.0)):  # beyond 1.28 upwards, below 0.8 downwards
        log_p = torch.tensor([new], requires_grad=True)
        dapo.loss(log_p, torch.zeros(1), torch.tensor([advantage]), 0.2, 0.28).backward()
        assert log_p.grad is not None
        assert float(log_p.grad) == 0


def test_a_wrong_answer_gains_nothing_by_being_fast() -> None:
    got = dapo.rewards(torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor([100.0, 50.0, 100.0, 1.0]), 2e-3)
    assert got.tolist() == pytest.approx([0.8, 0.9, 0.0, 0.0])


def test_advantages_are_normalised_in_their_group() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.9, 0.8, 0.9, 0.8]])
    assert dapo.advantages(rewards).tolist() == [
        pytest.approx([1, -1, -1, 1], rel=1e-4),
        pytest.approx([1, -1, 1, -1], rel=1e-4),
    ]
    floored = dapo.advantages(rewards, std_floor=0.1)
    assert floored[1].tolist() == pytest.approx([0.5, -0.5, 0.5, -0.5], rel=1e-4)
    assert [dapo.has_signal(group) for group in (rewards[0], rewards[1], torch.ones(4))] == [True, True, False]


def test_recall_counts_the_wrong_tokens_among_the_calls() -> None:
    wrong = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0])
    perfect = recall(wrong, wrong, num_answers=5)
    assert perfect == pytest.approx({0.4: 0.5, 0.6: 0.75, 0.8: 1.0, 1.0: 1.0, 1.2: 1.0})
    worst = recall(-wrong, wrong, num_answers=5)
    assert worst == pytest.approx({0.4: 0.0, 0.6: 0.0, 0.8: 0.0, 1.0: 0.0, 1.2: 0.0})
    assert recall(wrong, wrong, num_answers=100)[1.2] == pytest.approx(1.0), "more calls than unsure tokens"
