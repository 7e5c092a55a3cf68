"""Systems that differ in one number belong together: a line of a frontier."""

from __future__ import annotations

from dataclasses import dataclass

from rstitch.client.specs import Spec, name_of, parse
from rstitch.client.types import Confidence, Learned, LlmOnly, Random, Signal, SlmOnly, Speculative, Threshold
from rstitch.errors import RstitchError


@dataclass(frozen=True, slots=True)
class Member:
    """A system as a point of its line; `value` is the number that varies along it, None if none does."""

    system: str
    family: str
    value: float | None


def member_of(system: str) -> Member:
    """Finds the line of a system. One that our specs do not know stands for itself."""
    try:
        # `bench run` names a threshold by its tau alone.
        spec = parse(f"threshold:{system}" if system.startswith("tau=") else system)
    except RstitchError:
        return Member(system, system, None)
    family, value = _line(spec)
    extras = [part for part, given in (("early exit", spec.early_exit), ("budget", spec.budget)) if given is not None]
    if extras:
        # What varies is what was added: not the policy's own number.
        family = " + ".join([f"{family} {value:g}" if value is not None else family, *extras])
        value = _added_number(spec)
    return Member(system, family, value)


def _line(spec: Spec) -> tuple[str, float | None]:
    match spec.policy:
        case Threshold(tau, tau_return, signal, window):
            kind = "entropy" if signal is Signal.UNSPECIFIED else signal.value.replace("_", " ")
            return f"{kind}{f' {window}' if window else ''}{', tau_return' if tau_return is not None else ''}", tau
        case Confidence(threshold):
            return "confidence (v1)", threshold
        case Random(probability):
            return "random", probability
        case Learned(name, tau, price=price):
            return f"R-Stitch+ ({name})", tau if price is None else price
        case Speculative(draft_tokens, min_confidence):
            return f"speculative{', confident drafts' if min_confidence else ''}", draft_tokens
        case LlmOnly() | SlmOnly():
            return {"llm_only": "LLM-only", "slm_only": "SLM-only"}[name_of(type(spec.policy))], None
        case None:
            return "default", None
        case profile:
            return f"profile {profile.name}", None


def _added_number(spec: Spec) -> float | None:
    if spec.early_exit:
        return spec.early_exit.threshold
    bounds = (spec.budget.llm_tokens, spec.budget.max_switches) if spec.budget else ()
    return next((float(bound) for bound in bounds if bound is not None), None)
