"""What is turned to get more or less of the LLM: one parameter of a policy, and the values that it may take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rstitch.client.specs import parse
from rstitch.client.types import Confidence, Learned, Policy, Random, Signal, Threshold
from rstitch.errors import invalid

SIGNALS = ("entropy", "confidence", "margin", "entropy_window")
POLICIES = ("threshold", "confidence", "random", "learned:NAME")
# From an SLM that is hardly ever sure enough to one that nearly always is; a step is a quarter.
_TAUS = tuple(float(f"{tau:.3g}") for tau in np.geomspace(1e-6, 0.9, 61))
# For tests one after the other each costs an answer to every question: a step is a factor of about 2.
_COARSE_TAUS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
# Of a head, in multiples of what it was trained for: a step is a third, a coarse one a factor of about two.
_PRICES = tuple(float(f"{price:.3g}") for price in np.geomspace(0.01, 100, 33))
_COARSE_PRICES = (0.03, 0.06, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
_PROBABILITIES = tuple(round(p, 2) for p in np.linspace(0.02, 0.98, 49))


@dataclass(frozen=True, slots=True)
class Knob:
    """A parameter of a policy.

    Attributes:
        parameter: its name.
        values: to be tried, from most of the LLM to least.
        coarse: some of them, for goals that test one after the other.
        policy: made of a value.
    """

    parameter: str
    values: Sequence[float]
    coarse: Sequence[float]
    policy: Callable[[float], Policy]


def knob(policy: str, signal: str, window: int) -> Knob:
    """By the names of the flags. Raises: RstitchError (INVALID_ARGUMENT)."""
    name, _, head = policy.partition(":")
    if name != "threshold" and (signal != "entropy" or window):
        raise invalid("--signal", f"the policy {policy} has none to choose.", "Leave it out, or --policy threshold.")
    if window and signal != "entropy_window":
        raise invalid("--window", f"the signal {signal} has none.", "Leave it out, or --signal entropy_window.")
    match name:
        case "threshold":
            measured = Signal.UNSPECIFIED if signal == "entropy" else Signal(signal)
            return Knob("tau", _TAUS, _COARSE_TAUS, lambda tau: Threshold(tau, signal=measured, window=window))
        case "confidence":
            doubts = tuple(float(f"{1 - tau:.6g}") for tau in _TAUS)
            coarse = tuple(float(f"{1 - tau:.6g}") for tau in _COARSE_TAUS)
            return Knob("threshold", doubts, coarse, Confidence)
        case "random":
            return Knob("slm_probability", _PROBABILITIES, _PROBABILITIES[::5], lambda p: Random(p, seed=0))
        case "learned" if head:
            asked = parse(policy).policy
            assert isinstance(asked, Learned)
            return Knob("price", _PRICES, _COARSE_PRICES, lambda price: replace(asked, price=price))
    raise invalid("--policy", f"{policy} cannot be calibrated.", f"Choose one of {', '.join(POLICIES)}.")
