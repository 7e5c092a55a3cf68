"""Policies: who starts, which hand-off condition the writing model gets, who has the pen after a token.

Frozen values without memory: whatever they need to know is in the trajectory. They know neither worker nor wire.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import ClassVar, Protocol

from router_svc.trajectory import Model, Sampling

MIN_TAU, MAX_TAU = -1.0, 2.0
# Of the contract, but for a later issue.
UNIMPLEMENTED = ("learned", "confidence", "random", "speculative")


@dataclass(frozen=True, slots=True)
class Handoff:
    """When a worker gives the pen back: entropy > above (token not kept) or entropy <= below (token kept)."""

    above: float | None = None
    below: float | None = None


class Policy(Protocol):
    """What the decode loop asks a policy."""

    name: ClassVar[str]
    runs_ahead: ClassVar[bool]  # whether the worker alone can tell where the SLM would stop next

    def starts(self) -> Model:
        """Who writes the first token."""
        ...

    def handoff(self, active: Model) -> Handoff | None:
        """The condition under which `active` gives the pen back; None: never."""
        ...

    def pen_after(self, model: Model, entropy: float) -> Model:
        """Who writes after `model` kept a token of this entropy."""
        ...

    def may_write(self, model: Model) -> bool:
        """Whether `model` can get the pen at all; if so, it is worth keeping it caught up."""
        ...


@dataclass(frozen=True, slots=True)
class Threshold:
    """R-Stitch, Algorithm 1: an SLM token above `tau` goes to the LLM, an LLM token up to `tau_return` hands back."""

    name: ClassVar[str] = "threshold"
    runs_ahead: ClassVar[bool] = True
    tau: float
    tau_return: float

    def __post_init__(self) -> None:
        assert all(math.isfinite(tau) and MIN_TAU <= tau <= MAX_TAU for tau in (self.tau, self.tau_return))

    def starts(self) -> Model:
        """The SLM."""
        return Model.SLM

    def handoff(self, active: Model) -> Handoff:
        """The SLM's rule or the LLM's."""
        return Handoff(above=self.tau) if active is Model.SLM else Handoff(below=self.tau_return)

    def pen_after(self, model: Model, entropy: float) -> Model:
        """An SLM token that was kept was below tau; one sure LLM token hands back."""
        return model if model is Model.LLM and entropy > self.tau_return else Model.SLM

    def may_write(self, model: Model) -> bool:
        """Entropy lies in [0, 1]: at tau >= 1 the SLM is never unsure, below 0 the LLM is never sure."""
        return self.tau < 1 if model is Model.LLM else self.tau_return >= 0


@dataclass(frozen=True, slots=True)
class _Only:
    """One model writes all."""

    name: ClassVar[str]
    runs_ahead: ClassVar[bool] = False
    model: ClassVar[Model]

    def starts(self) -> Model:
        """That model."""
        return self.model

    def handoff(self, active: Model) -> Handoff | None:
        """Never."""
        return None

    def pen_after(self, model: Model, entropy: float) -> Model:
        """The same."""
        return self.model

    def may_write(self, model: Model) -> bool:
        """The other is never touched, and may be down."""
        return model is self.model


class LlmOnly(_Only):
    """The LLM alone."""

    __slots__ = ()
    name = "llm_only"
    model = Model.LLM


class SlmOnly(_Only):
    """The SLM alone."""

    __slots__ = ()
    name = "slm_only"
    model = Model.SLM


IMPLEMENTED = (Threshold.name, LlmOnly.name, SlmOnly.name)


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """What an answer was asked for, complete: another router can go on with nothing else.

    Attributes:
        policy: who writes.
        sampling: how tokens are chosen.
        max_new_tokens: limit of the answer, at least 1; kept tokens count, discarded proposals do not.
        stop: strings that end the answer.
        start: position of the answer's first token.
        traceparent: W3C context of the generation's root span, "" if not traced.
        guard_reason: why the guard chose the policy, "" if it is the one asked for.
    """

    policy: Policy
    sampling: Sampling
    max_new_tokens: int
    stop: tuple[str, ...]
    start: int
    traceparent: str = ""
    guard_reason: str = ""

    def to_json(self) -> str:
        """For the store."""
        policy: dict[str, object] = {"kind": self.policy.name}
        if isinstance(self.policy, Threshold):
            policy |= {"tau": self.policy.tau, "tau_return": self.policy.tau_return}
        fields = {
            "policy": policy,
            "sampling": asdict(self.sampling),
            "max_new_tokens": self.max_new_tokens,
            "stop": self.stop,
            "start": self.start,
            "traceparent": self.traceparent,
            "guard_reason": self.guard_reason,
        }
        return json.dumps(fields, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> AnswerSettings:
        """The inverse."""
        fields = json.loads(text)
        policy = fields["policy"]
        kinds: dict[str, type[LlmOnly] | type[SlmOnly]] = {LlmOnly.name: LlmOnly, SlmOnly.name: SlmOnly}
        made: Policy
        if policy["kind"] == Threshold.name:
            made = Threshold(policy["tau"], policy["tau_return"])
        else:
            made = kinds[policy["kind"]]()
        return cls(
            policy=made,
            sampling=Sampling(**fields["sampling"]),
            max_new_tokens=fields["max_new_tokens"],
            stop=tuple(fields["stop"]),
            start=fields["start"],
            traceparent=fields["traceparent"],
            guard_reason=fields.get("guard_reason", ""),  # trajectories of 0.1 have none
        )
