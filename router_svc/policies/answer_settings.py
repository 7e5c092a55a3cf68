"""What an answer was asked for, as it is kept with the trajectory: another router can go on with nothing else.

So everything that could be different there is settled before it is stored: defaults, the seed of a coin, a head's
version.
"""

from __future__ import annotations

import json
from dataclasses import Field, asdict, dataclass, fields
from typing import Any

from router_svc.policies.budget import NO_BUDGET, Budget
from router_svc.policies.early_exit import EarlyExit, ExitStyle
from router_svc.policies.kinds import KINDS, Threshold
from router_svc.policies.policy import Policy
from router_svc.trajectory.types import Sampling, Signal


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """What an answer was asked for, complete, with every default filled in."""

    policy: Policy
    sampling: Sampling
    max_new_tokens: int  # at least 1; kept tokens count, discarded proposals do not
    stop: tuple[str, ...]
    start: int  # position of the answer's first token, behind its prompt
    traceparent: str = ""  # of the generation's root span, if it is traced
    guard_reason: str = ""  # why the guard chose the policy, if it did
    budget: Budget = NO_BUDGET
    profile: str = ""  # name of the profile that the policy came from, if it came from one
    early_exit: EarlyExit | None = None
    cache_salt: str = ""  # workers take over what they have computed under this one only
    stop_token_ids: tuple[int, ...] = ()  # ids of the LLM that end the answer beside the models' own
    keep_consultations: int = 0  # so many of the head's are kept with the trajectory, the first ones
    top_logprobs: int | None = None  # details of tokens are kept, with so many alternatives each; None: no details
    stops_unread: bool = False  # whether it is interrupted as soon as its last reader has left
    json_schema: str = ""  # what the answer must be; "": anything
    thinking_end: str = ""  # behind this text the schema binds, if the answer thinks; "": it does not think
    thinking_begin: str = ""  # with which it may begin to think; "": it thinks at once, if there is an end of it
    request_id: str = ""  # of the question, as its caller named it
    vocabularies: str = ""  # key of those that the session is kept in; "" as an older router wrote it

    @property
    def trace_id(self) -> str:
        """The id in the W3C traceparent, in hex; "" if the answer is not traced."""
        return self.traceparent.split("-")[1] if self.traceparent else ""

    def to_json(self) -> str:
        """The settings as the text that the store keeps, and that `from_json` reads."""
        made = {**asdict(self), "policy": policy_fields(self.policy), "sampling": _sampling_fields(self.sampling)}
        return json.dumps(made, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> AnswerSettings:
        """Reads what `to_json` wrote. What an older router did not write has its default."""
        fields = json.loads(text)
        plain = {name: fields[name] for name in cls.__slots__ if name in fields}  # a newer router may know more
        made = {
            "policy": policy_from(fields["policy"]),
            "sampling": _sampling_from(fields["sampling"]),
            "stop": tuple(fields["stop"]),
            "stop_token_ids": tuple(fields.get("stop_token_ids", ())),
            "budget": Budget(**fields.get("budget", {})),
            "early_exit": _early_exit_from(fields.get("early_exit")),
        }
        return cls(**{**plain, **made})


def _sampling_fields(sampling: Sampling) -> dict[str, Any]:
    """Those that say something, and those that an older router has, which can read no others."""
    known = ("temperature", "top_p", "top_k", "seed")
    own = asdict(sampling)
    return {
        field.name: own[field.name]
        for field in fields(Sampling)
        if field.name in known or own[field.name] != field.default
    }


def _sampling_from(said: dict[str, Any]) -> Sampling:
    own = {name: said[name] for name in Sampling.__slots__ if name in said}
    biases = tuple((token, bias) for token, bias in own.get("logit_bias", ()))
    return Sampling(**{**own, "logit_bias": biases})


def _early_exit_from(fields: dict[str, Any] | None) -> EarlyExit | None:
    if fields is None:
        return None
    style = fields["style"]
    return EarlyExit(**{**fields, "style": ExitStyle(**{**style, "boundaries": tuple(style["boundaries"])})})


def _fields(policy: Policy | type[Policy]) -> tuple[Field[Any], ...]:
    return fields(policy)  # type: ignore[arg-type] # each kind is a dataclass, their base is none


def policy_fields(policy: Policy) -> dict[str, Any]:
    """A policy as a dictionary for JSON: its kind by name, and beside it those of its fields that say something.

    What has its default is left out, so that an older router can read a policy that asks for nothing new.
    """
    said = {field.name: value for field in _fields(policy) if (value := getattr(policy, field.name)) != field.default}
    return {"kind": policy.name, **said}


def policy_from(fields: dict[str, Any]) -> Policy:
    """Reads what `policy_fields` made, also of an older router; what a newer one knows more is left out."""
    kind = KINDS[fields["kind"]]
    own = {field.name: fields[field.name] for field in _fields(kind) if field.name in fields}
    # JSON made a number of the enum; a router that knew one signal only wrote none.
    if kind is Threshold and "signal" in own:
        own["signal"] = Signal(own["signal"])
    return kind(**own)
