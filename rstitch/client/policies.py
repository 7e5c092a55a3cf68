"""Who writes which token of an answer, as plain frozen values: policies and what goes with them.

They mirror protos/rstitch/v1/router.proto, which says what each field means. They know no wire.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias

# fmt: off
__all__ = [
    "Budget", "Confidence", "EarlyExit", "KeptProfile", "Learned", "LlmOnly", "Policy", "Profile", "Random",
    "Signal", "SlmOnly", "Speculative", "Threshold",
]
# fmt: on


class Signal(StrEnum):
    """Names the number in [0, 1] that says how unsure a model is of its next token: the higher, the less sure."""

    UNSPECIFIED = "unspecified"
    ENTROPY = "entropy"
    CONFIDENCE = "confidence"
    MARGIN = "margin"
    ENTROPY_WINDOW = "entropy_window"


@dataclass(frozen=True, slots=True)
class Threshold:
    """R-Stitch: the SLM writes while its signal is at most `tau`, the LLM hands back at `tau_return` (None: `tau`)."""

    tau: float
    tau_return: float | None = None
    signal: Signal = Signal.UNSPECIFIED  # the entropy
    window: int = 0  # of ENTROPY_WINDOW only, in tokens; 0: the router's


@dataclass(frozen=True, slots=True)
class Learned:
    """R-Stitch+: the head `name` decides where the entropy is over `tau` (None: that of its training)."""

    name: str
    tau: float | None = None
    explore_seed: int | None = None  # decisions are drawn by the head's probability; the same seed, the same answer
    price: float | None = None  # of a token of the LLM, in multiples of what the head was trained for
    price_by_load: bool = False  # the router finds the price by the load; only where none is given


@dataclass(frozen=True, slots=True)
class Confidence:
    """R-Stitch v1: an SLM token less probable than `threshold` goes to the LLM."""

    threshold: float


@dataclass(frozen=True, slots=True)
class LlmOnly:
    """The LLM writes the whole answer."""


@dataclass(frozen=True, slots=True)
class SlmOnly:
    """The SLM writes the whole answer."""


@dataclass(frozen=True, slots=True)
class Random:
    """Each token goes to the SLM with this probability, by a coin of seed (None: the session's) and position."""

    slm_probability: float
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Speculative:
    """The SLM drafts so many tokens, or up to one less probable than `min_confidence`; the LLM verifies them."""

    draft_tokens: int
    min_confidence: float = 0.0


@dataclass(frozen=True, slots=True)
class Profile:
    """The policy that the router keeps under a name."""

    name: str


Policy: TypeAlias = Threshold | Learned | Confidence | LlmOnly | SlmOnly | Random | Speculative | Profile


@dataclass(frozen=True, slots=True)
class EarlyExit:
    """DEER: end the thinking where a trial answer is more confident than `threshold`.

    What is empty or 0 is the router's setting for the models.
    """

    threshold: float
    boundaries: tuple[str, ...] = ()
    prompt: str = ""
    end: str = ""
    max_trial_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Budget:
    """Bounds what an answer takes of the LLM, in tokens and switches; then the SLM goes on, or the answer ends."""

    llm_tokens: int | None = None
    max_switches: int | None = None
    stop: bool = False


@dataclass(frozen=True, slots=True)
class KeptProfile:
    """A policy that the router keeps under a name; `description` says how it was found, the router sets `updated`."""

    name: str
    policy: Policy
    early_exit: EarlyExit | None = None
    budget: Budget | None = None
    description: str = ""
    updated: datetime | None = None
