"""Where a head begins: what a warm start has never seen does not throw it off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from rich.console import Console

from rstitch.service.head_features import Situation, numbers
from training.head.mlp import Policy
from training.head.pair import Pair
from training.head.progress import Screen
from training.head.recipe import Recipe
from training.head.warm_start.beginning import begin
from training.head.warm_start.states import States

PAIR = Pair({"slm": "nobody/asks", "llm": "nobody/asks"}, {"slm": "cpu", "llm": "cpu"})


def begun(folder: Path, recipe: Recipe, states: States) -> Policy:
    return begin(folder, recipe, PAIR, lambda: states, Screen(Console(quiet=True)))


def drawn(features: Sequence[str], n: int = 400) -> States:
    """States of answers without a budget, as all are that a warm start learns from."""
    torch.manual_seed(0)
    shown = torch.tensor([numbers(features, Situation(0.5))]).expand(n, -1)
    inputs = torch.cat([torch.randn(n, 4), torch.arange(n)[:, None].float(), shown], dim=1)
    return States(inputs, (inputs[:, 0] > 0).float(), torch.arange(n), n)


def log_odds(policy: Policy, features: Sequence[str], states: States, llm_tokens_left: int | None) -> float:
    shown = torch.tensor([numbers(features, Situation(0.5, llm_tokens_left=llm_tokens_left))])
    with torch.no_grad():
        log_p = policy(torch.cat([states.inputs[:1, :5], shown], dim=1))
    return float(log_p[0, 1] - log_p[0, 0])


@pytest.mark.parametrize("warm_answers", [0, 64])
def test_a_first_budget_moves_a_head_a_little(warm_answers: int, tmp_path: Path) -> None:
    features, states = ("entropy", "left"), drawn(("entropy", "left"))
    recipe = Recipe(num_readout=0, features=features, hidden=(16,), warm_answers=warm_answers, warm_epochs=40)
    policy = begun(tmp_path, recipe, states)
    odds = [log_odds(policy, features, states, left) for left in (None, 1024, 512, 128, 32, 16, 8, 4, 2, 1, 0)]
    assert odds[0] == odds[1], "a budget of more is as good as none"
    assert all(math.isfinite(each) for each in odds)
    assert max(abs(first - second) for first, second in pairwise(odds)) < 2


def test_what_was_the_same_in_all_examples_is_no_million_times_as_loud_in_others() -> None:
    policy = Policy(4, 0, (), 0.5, ("spent",))
    seen = torch.randn(50, 6)
    seen[:, [3, 5]] = 1.0
    policy.normalise(seen)
    assert ((torch.full((6,), 2.0) - policy.mean) / policy.std).abs().max() <= 100
    policy.normalise(seen[:1])
    assert policy.std.isfinite().all(), "of one example, too"
