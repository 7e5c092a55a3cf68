"""A policy from the flags of a command, and in words. It does not know what a policy does."""

from __future__ import annotations

from rstitch.cli.common import as_dict
from rstitch.client.types import LlmOnly, Policy, Random, SlmOnly, Speculative, Threshold
from rstitch.errors import invalid

NAMES = ("threshold", "llm_only", "slm_only", "random", "speculative")


def policy_of(
    name: str | None, tau: float | None, tau_return: float | None, slm_probability: float, draft_tokens: int
) -> Policy | None:
    """The policy that the flags mean; None: the router's default. Raises: RstitchError (INVALID_ARGUMENT)."""
    name = name.replace("-", "_") if name else None
    if name not in (None, *NAMES):
        raise invalid("--policy", f"there is no policy {name}.", f"Choose one of {', '.join(NAMES)}.")
    if name not in (None, "threshold") and (tau is not None or tau_return is not None):
        raise invalid("--tau", f"the policy {name} has no tau.", "Leave it out, or use --policy threshold.")
    if tau is None and (tau_return is not None or name == "threshold"):
        raise invalid("--tau", "the policy threshold needs it.", "Give --tau, such as --tau 0.02.")
    match name:
        case "llm_only":
            return LlmOnly()
        case "slm_only":
            return SlmOnly()
        case "random":
            return Random(slm_probability)
        case "speculative":
            return Speculative(draft_tokens)
    return None if tau is None else Threshold(tau, tau_return)


def policy_text(policy: Policy | None) -> str:
    """A policy in one word and its numbers."""
    if policy is None:
        return ""
    name = "".join(f"_{c.lower()}" if c.isupper() else c for c in type(policy).__name__).lstrip("_")
    numbers = [
        f"{value:g}" if isinstance(value, float) else f"{value}"
        for value in as_dict(policy).values()
        if value is not None
    ]
    return f"{name}({', '.join(numbers)})" if numbers else name
