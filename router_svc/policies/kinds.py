"""Policies: who starts, which hand-off condition the writing model gets, who has the pen after a token.

Frozen values without memory: whatever they need to know is in the trajectory. They know neither worker nor wire.
"""

from __future__ import annotations

import math
import struct
from abc import abstractmethod
from dataclasses import dataclass
from hashlib import blake2b
from typing import ClassVar

from router_svc.policies.policy import Handoff, Policy, Trail
from router_svc.trajectory.types import Model, Signal, SwitchReason

MIN_TAU, MAX_TAU = -1.0, 2.0
MAX_WINDOW, DEFAULT_WINDOW = 64, 8
MAX_DRAFT_TOKENS = 64
# A run of one author is looked for so far ahead; a longer one is two runs.
_MAX_COIN_RUN = 1024


class _ByUncertainty(Policy):
    """Algorithm 1: an SLM token above a bound goes to the LLM, an LLM token at or below one hands back."""

    __slots__ = ()

    @abstractmethod
    def _rule(self) -> tuple[float, float, Signal, int]:
        """The two bounds, the signal that is compared, and its window."""

    @property
    def runs_ahead(self) -> bool:
        """Not with a window: it holds what the LLM is going to write."""
        return not self._rule()[3]

    def starts(self, trail: Trail) -> Model:
        """The SLM."""
        return Model.SLM

    def handoff(self, active: Model, trail: Trail) -> Handoff:
        """The SLM's rule or the LLM's."""
        above, below, signal, window = self._rule()
        recent = tuple(trail.entropies[1 - window :]) if window > 1 else ()
        if active is Model.SLM:
            return Handoff(above=above, signal=signal, window=window, recent=recent)
        return Handoff(below=below, signal=signal, window=window, recent=recent)

    def pen_after(self, model: Model, trail: Trail) -> Model:
        """An SLM token that was kept was below its bound; one sure LLM token hands back, as its worker reckons it."""
        _, below, _, window = self._rule()
        recent = trail.entropies[-window:] if window else (trail.uncertainty,)
        return model if model is Model.LLM and math.fsum(recent) / len(recent) > below else Model.SLM

    def reason(self, leaving: Model) -> SwitchReason:
        """Above or below."""
        if self._rule()[2] is Signal.ENTROPY:
            return SwitchReason.ENTROPY_ABOVE if leaving is Model.SLM else SwitchReason.ENTROPY_BELOW
        return SwitchReason.UNCERTAINTY_ABOVE if leaving is Model.SLM else SwitchReason.UNCERTAINTY_BELOW

    def bound(self, leaving: Model) -> float | None:
        """Of the model's rule."""
        return self._rule()[0 if leaving is Model.SLM else 1]

    def may_write(self, model: Model) -> bool:
        """A signal lies in [0, 1]: from 1 on the SLM is never unsure, below 0 the LLM is never sure."""
        above, below, _, _ = self._rule()
        return above < 1 if model is Model.LLM else below >= 0


@dataclass(frozen=True, slots=True)
class Threshold(_ByUncertainty):
    """R-Stitch: one bound each way.

    Attributes:
        tau, tau_return: an SLM token above the one goes to the LLM, an LLM token up to the other hands back.
        signal: what is compared. `ENTROPY_WINDOW` is the mean over the answer's last `window` entropies, this token's
            included, fewer at the beginning; each as float32, which is how they are kept.
    """

    name: ClassVar[str] = "threshold"
    tau: float
    tau_return: float
    signal: Signal = Signal.ENTROPY
    window: int = 0

    def __post_init__(self) -> None:
        assert all(math.isfinite(tau) and MIN_TAU <= tau <= MAX_TAU for tau in (self.tau, self.tau_return))
        assert 0 < self.window <= MAX_WINDOW if self.signal is Signal.ENTROPY_WINDOW else self.window == 0

    def _rule(self) -> tuple[float, float, Signal, int]:
        return self.tau, self.tau_return, self.signal, self.window


@dataclass(frozen=True, slots=True)
class Confidence(_ByUncertainty):
    """R-Stitch v1 (July 2025): a token less probable than `threshold` goes to the LLM, one at least so hands back."""

    name: ClassVar[str] = "confidence"
    threshold: float

    def _rule(self) -> tuple[float, float, Signal, int]:
        return 1 - self.threshold, 1 - self.threshold, Signal.CONFIDENCE, 0


@dataclass(frozen=True, slots=True)
class Learned(_ByUncertainty):
    """R-Stitch+: where the SLM's entropy is above `tau`, a head decides; the LLM hands back at an entropy up to `tau`.

    Attributes:
        head: its name and version, NAME@VERSION; in a question perhaps without the version.
        tau: None in a question only: the answer's is the one that its head was trained with.
        in_worker: whether the SLM's worker asks the head, which saves a way to the router and back where it says stay.
    """

    name: ClassVar[str] = "learned"
    head: str
    tau: float | None
    in_worker: bool = False

    @property
    def runs_ahead(self) -> bool:
        """Where the worker asks the head it knows where it would stop."""
        return self.in_worker

    def _rule(self) -> tuple[float, float, Signal, int]:
        assert self.tau is not None, "an answer's gate is settled"
        return self.tau, self.tau, Signal.ENTROPY, 0

    def handoff(self, active: Model, trail: Trail) -> Handoff:
        """The SLM stops where the head says so; or where it is to be asked, and shows what it looks at."""
        if active is Model.LLM:
            return Handoff(below=self.tau)
        return Handoff(above=self.tau, head=self.head) if self.in_worker else Handoff(above=self.tau, hidden_state=True)

    def reason(self, leaving: Model) -> SwitchReason:
        """The head, or the LLM's entropy."""
        return SwitchReason.HEAD if leaving is Model.SLM else SwitchReason.ENTROPY_BELOW


@dataclass(frozen=True, slots=True)
class Random(Policy):
    """Random routing: the SLM writes each token with a fixed probability, by a coin that knows seed and position.

    Attributes:
        seed: None in a question only: the answer's is made of its session's id.
    """

    name: ClassVar[str] = "random"
    slm_probability: float
    seed: int | None

    def author(self, position: int) -> Model:
        """Who writes a position: a function of seed and position, so that any router goes on as the last one would."""
        assert self.seed is not None, "an answer's coin has a seed"
        digest = blake2b(struct.pack("<QQ", self.seed, position), digest_size=8).digest()
        uniform = int.from_bytes(digest[:7], "little") * 2.0**-56
        return Model.SLM if uniform < self.slm_probability else Model.LLM

    def starts(self, trail: Trail) -> Model:
        """The first coin."""
        return self.author(trail.position)

    def run_length(self, active: Model, trail: Trail) -> int:
        """Up to the next position that is the other's: the coins are known beforehand, no token is discarded."""
        length = 1
        while length < _MAX_COIN_RUN and self.author(trail.position + length) is active:
            length += 1
        return length

    def pen_after(self, model: Model, trail: Trail) -> Model:
        """The next coin."""
        return self.author(trail.position)

    def reason(self, leaving: Model) -> SwitchReason:
        """The coin."""
        return SwitchReason.COIN

    def may_write(self, model: Model) -> bool:
        """Unless the coin has one side."""
        return self.slm_probability < 1 if model is Model.LLM else self.slm_probability > 0


@dataclass(frozen=True, slots=True)
class Speculative(Policy):
    """Speculative decoding: the SLM drafts, the LLM keeps what it would have written itself, and writes a token.

    Attributes:
        draft_tokens: of a draft, at most.
        min_confidence: a draft ends before a token less probable than this; 0: never.
    """

    name: ClassVar[str] = "speculative"
    routes: ClassVar[bool] = False
    draft_tokens: int
    min_confidence: float = 0.0

    def __post_init__(self) -> None:
        assert 1 <= self.draft_tokens <= MAX_DRAFT_TOKENS
        assert 0 <= self.min_confidence <= 1

    def starts(self, trail: Trail) -> Model:
        """The SLM, with the first draft."""
        return Model.SLM

    def handoff(self, active: Model, trail: Trail) -> Handoff | None:
        """Where a draft ends before its length."""
        if active is Model.LLM or not self.min_confidence:
            return None
        return Handoff(above=1 - self.min_confidence, signal=Signal.CONFIDENCE)

    def pen_after(self, model: Model, trail: Trail) -> Model:
        """Who goes on is the loop's affair."""
        return model

    def may_write(self, model: Model) -> bool:
        """Both do."""
        return True


@dataclass(frozen=True, slots=True)
class _Only(Policy):
    """One model writes all."""

    model: ClassVar[Model]

    def starts(self, trail: Trail) -> Model:
        """That model."""
        return self.model

    def pen_after(self, model: Model, trail: Trail) -> Model:
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


KINDS: dict[str, type[Policy]] = {
    kind.name: kind for kind in (Threshold, Confidence, Learned, Random, Speculative, LlmOnly, SlmOnly)
}
