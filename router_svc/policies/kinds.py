"""The policies: who writes first, under which condition the writer hands over, who writes after a token.

Frozen values without memory: whatever they need to know is in the history. They know neither worker nor wire.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from router_svc.policies.policy import Handoff, History, Policy
from router_svc.trajectory.types import Model, Signal, SwitchReason
from rstitch.limits import MAX_TAU, MAX_WINDOW, MIN_TAU
from rstitch.service.coin import uniform
from rstitch.service.consulting import HeadTerms
from rstitch.service.head_features import NUM_RECENT

DEFAULT_WINDOW = 8
MAX_DRAFT_TOKENS = 64
# A run of one author is looked for so far ahead; a longer one is two runs.
_MAX_COIN_RUN = 1024


class _ByUncertainty(Policy):
    """Algorithm 1: an SLM token above a bound goes to the LLM, an LLM token at or below one hands back."""

    __slots__ = ()

    @abstractmethod
    def _rule(self) -> tuple[float, float, Signal, int]:
        """The bounds above which the SLM and up to which the LLM hands over, the signal compared, and its window."""

    @property
    def runs_ahead(self) -> bool:
        """Not with a window: the mean then depends on what the LLM is about to write."""
        return not self._rule()[3]

    def first_writer(self, history: History) -> Model:
        return Model.SLM

    def handoff(self, writer: Model, history: History) -> Handoff:
        above, below, signal, window = self._rule()
        # The worker's window ends with the token that it weighs, so it is told the window - 1 entropies before.
        recent = tuple(history.entropies[1 - window :]) if window > 1 else ()
        is_slm = writer is Model.SLM
        return Handoff(above if is_slm else None, None if is_slm else below, signal, window, recent)

    def next_writer(self, writer: Model, history: History) -> Model:
        """One LLM token at or below its bound hands back, by the worker's own arithmetic; else nothing changes."""
        _, below, _, window = self._rule()
        recent = history.entropies[-window:] if window else (history.uncertainty,)
        return writer if writer is Model.LLM and math.fsum(recent) / len(recent) > below else Model.SLM

    def switch_reason(self, leaving: Model, history: History) -> SwitchReason:
        if self._rule()[2] is Signal.ENTROPY:
            return SwitchReason.ENTROPY_ABOVE if leaving is Model.SLM else SwitchReason.ENTROPY_BELOW
        return SwitchReason.UNCERTAINTY_ABOVE if leaving is Model.SLM else SwitchReason.UNCERTAINTY_BELOW

    def bound(self, leaving: Model) -> float | None:
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
    """R-Stitch+: where the SLM's entropy is above `tau` a head decides; the LLM hands back at one up to `tau`."""

    name: ClassVar[str] = "learned"
    head: str  # NAME@VERSION; a question may leave the version out
    tau: float | None  # None only in a question; the answer then takes the one that its head was trained with
    in_worker: bool = False  # whether the SLM's worker asks the head, which saves an exchange where that says stay
    explore_seed: int | None = None  # decisions are drawn by the head's probability; None: they are not
    price: float | None = None  # of a token of the LLM, in multiples of what the head was trained for; None: 1
    price_by_load: bool = False  # only in a question: the price is found by the load when its answer begins
    looks_back: bool = False  # whether the head is shown what depends on the tokens before, which forbids running ahead

    @property
    def runs_ahead(self) -> bool:
        """A worker that asks the head itself knows where the SLM would stop, unless that depends on the LLM's token."""
        return self.in_worker and not self.looks_back

    @property
    def explores(self) -> bool:
        return self.explore_seed is not None

    def _rule(self) -> tuple[float, float, Signal, int]:
        assert self.tau is not None, "an answer's gate is settled"
        return self.tau, self.tau, Signal.ENTROPY, 0

    def handoff(self, writer: Model, history: History) -> Handoff:
        """The SLM stops where its worker's head says so; or above tau, with the hidden state for the router's head."""
        if writer is Model.LLM:
            return Handoff(below=self.tau)
        terms = HeadTerms(
            position=history.position,
            explore_seed=self.explore_seed,
            price=self.price or 1.0,
            recent_entropies=tuple(history.entropies[-NUM_RECENT:]) if self.looks_back else (),
            segment_length=history.position - history.segment_start,
            num_llm_tokens=history.num_llm_tokens,
        )
        if self.in_worker:
            return Handoff(above=self.tau, head=self.head, terms=terms)
        return Handoff(above=self.tau, hidden_state=True, terms=terms)

    def switch_reason(self, leaving: Model, history: History) -> SwitchReason:
        return SwitchReason.HEAD if leaving is Model.SLM else SwitchReason.ENTROPY_BELOW


@dataclass(frozen=True, slots=True)
class Random(Policy):
    """Random routing: the SLM writes each token with a fixed probability, by a coin that knows seed and position."""

    name: ClassVar[str] = "random"
    slm_probability: float
    seed: int | None  # None only in a question; the answer then makes one from its session's id

    def author(self, position: int) -> Model:
        """Tosses the coin of a position, from seed and position alone: any router goes on as the last one would."""
        assert self.seed is not None, "an answer's coin has a seed"
        return Model.SLM if uniform(self.seed, position) < self.slm_probability else Model.LLM

    def first_writer(self, history: History) -> Model:
        return self.author(history.position)

    def run_length(self, writer: Model, history: History) -> int:
        """Reaches to the next position whose coin is the other's: coins are known beforehand, nothing is discarded."""
        length = 1
        while length < _MAX_COIN_RUN and self.author(history.position + length) is writer:
            length += 1
        return length

    def next_writer(self, writer: Model, history: History) -> Model:
        return self.author(history.position)

    def switch_reason(self, leaving: Model, history: History) -> SwitchReason:
        return SwitchReason.COIN

    def may_write(self, model: Model) -> bool:
        return self.slm_probability < 1 if model is Model.LLM else self.slm_probability > 0


@dataclass(frozen=True, slots=True)
class Speculative(Policy):
    """Speculative decoding: the SLM drafts, the LLM keeps what it would have written itself, and writes a token."""

    name: ClassVar[str] = "speculative"
    routes: ClassVar[bool] = False
    draft_tokens: int  # the most of one draft
    min_confidence: float = 0.0  # a draft ends before a token less probable than this; 0: never

    def __post_init__(self) -> None:
        assert 1 <= self.draft_tokens <= MAX_DRAFT_TOKENS
        assert 0 <= self.min_confidence <= 1

    def first_writer(self, history: History) -> Model:
        return Model.SLM

    def handoff(self, writer: Model, history: History) -> Handoff | None:
        """A draft may end before its length, where the SLM is not confident; the LLM's runs end by themselves."""
        if writer is Model.LLM or not self.min_confidence:
            return None
        return Handoff(above=1 - self.min_confidence, signal=Signal.CONFIDENCE)

    def next_writer(self, writer: Model, history: History) -> Model:
        return writer  # drafts and verification alternate by a loop of their own

    def may_write(self, model: Model) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class _Only(Policy):
    """One model writes everything."""

    model: ClassVar[Model]

    def first_writer(self, history: History) -> Model:
        return self.model

    def next_writer(self, writer: Model, history: History) -> Model:
        return self.model

    def may_write(self, model: Model) -> bool:
        """The other model is never touched, and may be down."""
        return model is self.model


class LlmOnly(_Only):
    """The LLM alone writes."""

    __slots__ = ()
    name = "llm_only"
    model = Model.LLM


class SlmOnly(_Only):
    """The SLM alone writes."""

    __slots__ = ()
    name = "slm_only"
    model = Model.SLM


KINDS: dict[str, type[Policy]] = {
    kind.name: kind for kind in (Threshold, Confidence, Learned, Random, Speculative, LlmOnly, SlmOnly)
}
