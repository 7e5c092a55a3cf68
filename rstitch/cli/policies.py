"""How an answer is to be written, from the flags of a command, and in words. It does not know what a policy does."""

from __future__ import annotations

import dataclasses

from rstitch.client.specs import KINDS, Spec, name_of, parse
from rstitch.client.types import Threshold
from rstitch.errors import invalid

HELP = f"{' | '.join(KINDS)}, with its fields: random:slm_probability=0.9, learned:NAME, ...+budget:llm_tokens=20"
_DEFAULT = name_of(Threshold)  # what a router does where nothing else is said, with its own tau


def spec_of(text: str | None, tau: float | None, tau_return: float | None) -> Spec:
    """Reads the flags; without a policy, or one but for its tau, the router's is meant. Raises: InvalidArgument."""
    if tau is None and tau_return is None:
        return parse(text) if text and text != _DEFAULT else Spec()
    if tau is None:
        raise invalid("--tau", "--tau-return goes with it.", "Give --tau, such as --tau 0.02.")
    if text in (None, "", "threshold"):
        return Spec(Threshold(tau, tau_return))
    spec = parse(f"threshold:tau={tau}{text.removeprefix('threshold')}" if text.startswith("threshold+") else text)
    if not isinstance(spec.policy, Threshold):
        raise invalid("--tau", f"the policy {text} has none here.", "Leave it out, or use --policy threshold.")
    return dataclasses.replace(spec, policy=dataclasses.replace(spec.policy, tau=tau, tau_return=tau_return))
