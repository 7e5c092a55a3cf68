"""What the decode loop asks a policy, and what a policy may look at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from dataclasses import dataclass
from typing import ClassVar, Protocol

from router_svc.trajectory.types import Model, Signal, SwitchReason


@dataclass(frozen=True, slots=True)
class Handoff:
    """When a worker gives the pen back: signal > above (token not kept) or signal <= below (token kept).

    Attributes:
        window, recent: of ENTROPY_WINDOW: over how many tokens, and the entropies of those before the run.
        hidden_state: whether the proposal carries it.
        head: asked by the worker where the signal is above; "": none is.
    """

    above: float | None = None
    below: float | None = None
    signal: Signal = Signal.ENTROPY
    window: int = 0
    recent: tuple[float, ...] = ()
    hidden_state: bool = False
    head: str = ""


@dataclass(slots=True)
class Trail:
    """An answer as policies look at it.

    Attributes:
        start: position of its first token.
        entropies: one per token.
        uncertainty: of its last token, by the policy's signal; the entropy where that is the signal.
    """

    start: int
    entropies: array[float]
    uncertainty: float = 0.0

    @property
    def position(self) -> int:
        """Of the next token."""
        return self.start + len(self.entropies)

    def grow(self, entropies: array[float], uncertainties: array[float]) -> None:
        """Tokens were kept, at least one; `uncertainties` is empty where the signal is the entropy."""
        self.entropies.extend(entropies)
        self.uncertainty = (uncertainties or entropies)[-1]


class Head(Protocol):
    """What R-Stitch+ asks where the SLM is unsure."""

    def wants_llm(self, hidden_state: bytes, position: int) -> bool:
        """Whether the LLM is to write `position`.

        Args:
            hidden_state: the SLM's, of which it made its proposal: float32 little-endian, [hidden_size].
        """
        ...


class Policy(ABC):
    """What the decode loop asks a policy."""

    __slots__ = ()
    name: ClassVar[str]
    # Whether it decides who writes what; otherwise the tokens are the LLM's, whoever writes them.
    routes: ClassVar[bool] = True

    @property
    def runs_ahead(self) -> bool:
        """Whether the SLM's worker alone can tell where it would stop next."""
        return False

    @abstractmethod
    def starts(self, trail: Trail) -> Model:
        """Who writes the first token."""

    @abstractmethod
    def pen_after(self, model: Model, trail: Trail) -> Model:
        """Who writes after `model` kept the trail's last token."""

    @abstractmethod
    def may_write(self, model: Model) -> bool:
        """Whether `model` can get the pen at all; if so, it is worth keeping it caught up."""

    def handoff(self, active: Model, trail: Trail) -> Handoff | None:
        """The condition under which `active` gives the pen back; None: never."""
        return None

    def run_length(self, active: Model, trail: Trail) -> int | None:
        """After how many tokens `active` stops all the same; None: no such limit."""
        return None

    def reason(self, leaving: Model) -> SwitchReason:
        """Why the pen leaves a model."""
        return SwitchReason.NONE

    def bound(self, leaving: Model) -> float | None:
        """What the signal is compared with before the pen leaves a model, if it is; for people."""
        return None
