"""P(wrong) of a head: its reliability, and a correction that is found on held-out states and written into the file."""

from __future__ import annotations

import math

import pytest
import torch

from rstitch.service.head import HeadFacts
from training.head.mlp import Policy
from training.head.warm_start.calibration import calibrate, expected_error, log_odds, odds_of, platt, reliability
from training.head.warm_start.states import States


def drawn(n: int, scale: float, shift: float, seed: int) -> States:
    """States whose true log-odds are `scale` * first input + `shift`."""
    torch.manual_seed(seed)
    inputs = torch.randn(n, 5)
    wrong = torch.bernoulli((scale * inputs[:, 0] + shift).sigmoid())
    return States(inputs, wrong, torch.zeros(n, dtype=torch.long), 1)


def first_input(features: tuple[str, ...] = ()) -> Policy:
    """A policy whose log-odds are its first input."""
    policy = Policy(4, 0, (), 0.5, features)
    with torch.no_grad():
        policy.layers[0].weight[1, 0] = 1.0  # type: ignore[index]
    return policy


def test_a_head_that_is_sure_of_itself_without_reason_is_corrected() -> None:
    policy, fresh = first_input(), drawn(20_000, 0.4, -1.0, seed=2)
    assert expected_error(reliability(log_odds(policy, fresh), fresh.wrong)) > 0.1
    order = log_odds(policy, fresh).argsort()
    before, after = calibrate(policy, drawn(20_000, 0.4, -1.0, seed=1))
    assert before > 0.1
    assert after < 0.02
    corrected = log_odds(policy, fresh)
    assert expected_error(reliability(corrected, fresh.wrong)) < 0.02, "on states that it was not calibrated on"
    assert corrected[order].diff().min() > -1e-5, "who is asked first stays"
    assert platt(corrected, fresh.wrong) == pytest.approx((1.0, 0.0), abs=0.1)


def test_the_correction_is_in_the_file_and_a_price_is_in_odds() -> None:
    policy, states = first_input(), drawn(300, 0.4, -1.0, seed=1)
    calibrate(policy, states)
    head = policy.to_head(HeadFacts(4, "", 0.1))
    assert odds_of(head, states).tolist() == pytest.approx(log_odds(policy, states).tolist(), abs=1e-4)
    state, length = states.inputs[0, :4].numpy().tobytes(), int(states.inputs[0, 4])
    p, dear = (head.probability(state, length, price=price) for price in (1.0, 3.0))
    assert dear / (1 - dear) == pytest.approx(p / (1 - p) / 3)
    assert math.log(p / (1 - p)) == pytest.approx(float(odds_of(head, states)[0]), abs=1e-4)


def test_bins_hold_as_many_states_each_and_say_what_was_wrong() -> None:
    odds = torch.tensor([-2.0, 0.0, 2.0, 1.0])
    bins = reliability(odds, torch.tensor([0.0, 1.0, 1.0, 0.0]), num_bins=2)
    assert [each.n for each in bins] == [2, 2]
    assert [each.wrong for each in bins] == [0.5, 0.5]
    assert bins[0].said == pytest.approx((1 / (1 + math.exp(2)) + 0.5) / 2)
    assert expected_error(bins) == pytest.approx((abs(bins[0].said - 0.5) + abs(bins[1].said - 0.5)) / 2)


@pytest.mark.parametrize("wrong", [0.0, 1.0])
def test_states_of_one_kind_calibrate_nothing(wrong: float) -> None:
    with pytest.raises(ValueError, match="both kinds"):
        platt(torch.randn(5), torch.full((5,), wrong))
