"""What an answer was asked for, as it is kept with the trajectory: another router can go on with nothing else.

So everything that could be different there is settled before it is stored: defaults, the seed of a coin, a head's
version.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from router_svc.policies.budget import NO_BUDGET, Budget
from router_svc.policies.early_exit import EarlyExit, ExitStyle
from router_svc.policies.kinds import KINDS, Threshold
from router_svc.policies.policy import Policy
from router_svc.trajectory.types import Sampling, Signal


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """What an answer was asked for, complete, with every default filled in.

    Attributes:
        policy: says which model writes the next token.
        sampling: says how tokens are chosen.
        max_new_tokens: limit of the answer, at least 1; kept tokens count, discarded proposals do not.
        stop: strings that end the answer.
        start: position of the answer's first token, behind its prompt.
        traceparent: W3C context of the generation's root span, "" if it is not traced.
        guard_reason: why the guard chose the policy, "" if it is the one asked for.
        budget: how much the LLM may write.
        profile: name of the profile that the policy came from, "" if from none.
        early_exit: how the thinking may end early; None if that was not asked for.
    """

    policy: Policy
    sampling: Sampling
    max_new_tokens: int
    stop: tuple[str, ...]
    start: int
    traceparent: str = ""
    guard_reason: str = ""
    budget: Budget = NO_BUDGET
    profile: str = ""
    early_exit: EarlyExit | None = None

    def to_json(self) -> str:
        """The settings as the text that the store keeps, and that `from_json` reads."""
        fields = {
            "policy": policy_fields(self.policy),
            "sampling": asdict(self.sampling),
            "max_new_tokens": self.max_new_tokens,
            "stop": self.stop,
            "start": self.start,
            "traceparent": self.traceparent,
            "guard_reason": self.guard_reason,
            "budget": asdict(self.budget),
            "profile": self.profile,
            "early_exit": asdict(self.early_exit) if self.early_exit is not None else None,
        }
        return json.dumps(fields, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> AnswerSettings:
        """Reads what `to_json` wrote. What an older router did not write has its default."""
        fields = json.loads(text)
        return cls(
            policy=policy_from(fields["policy"]),
            sampling=Sampling(**fields["sampling"]),
            max_new_tokens=fields["max_new_tokens"],
            stop=tuple(fields["stop"]),
            start=fields["start"],
            traceparent=fields["traceparent"],
            guard_reason=fields.get("guard_reason", ""),
            budget=Budget(**fields.get("budget", {})),
            profile=fields.get("profile", ""),
            early_exit=_early_exit_from(fields.get("early_exit")),
        )


def _early_exit_from(fields: dict[str, Any] | None) -> EarlyExit | None:
    if fields is None:
        return None
    style = fields["style"]
    return EarlyExit(**{**fields, "style": ExitStyle(**{**style, "boundaries": tuple(style["boundaries"])})})


def policy_fields(policy: Policy) -> dict[str, Any]:
    """A policy as a dictionary for JSON: its kind by name, and its own fields beside it."""
    return {"kind": policy.name, **asdict(policy)}  # type: ignore[call-overload]


def policy_from(fields: dict[str, Any]) -> Policy:
    """Reads what `policy_fields` made, also of an older router."""
    own = {name: value for name, value in fields.items() if name != "kind"}
    kind = KINDS[fields["kind"]]
    # JSON made a number of the enum; a router that knew one signal only wrote none.
    if kind is Threshold and "signal" in own:
        own["signal"] = Signal(own["signal"])
    return kind(**own)
