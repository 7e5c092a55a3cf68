"""What the decode loop asks a policy, and what a policy may look at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from dataclasses import dataclass, field
from typing import ClassVar

from router_svc.trajectory.types import Model, Signal, SwitchReason, entropies_of
from router_svc.trajectory.usage import Usage
from rstitch.service.consulting import HeadTerms


@dataclass(frozen=True, slots=True)
class Handoff:
    """The condition under which a worker stops: signal > above (token not kept) or signal <= below (token kept).

    Attributes:
        window, recent: for ENTROPY_WINDOW, the number of tokens averaged and the entropies of those before the run.
        hidden_state: whether the proposal carries it.
        head: the head that the worker asks where the signal is above; "": it asks none.
        terms: on which a head is asked, in the worker or here; None: none is.
    """

    above: float | None = None
    below: float | None = None
    signal: Signal = Signal.ENTROPY
    window: int = 0
    recent: tuple[float, ...] = ()
    hidden_state: bool = False
    head: str = ""
    terms: HeadTerms | None = None


@dataclass(slots=True)
class History:
    """An answer so far, as policies look at it."""

    start: int  # position of the answer's first token
    entropies: array[float] = field(default_factory=entropies_of)  # one per token of the answer
    uncertainty: float = 0.0  # the policy's signal at the last token; the entropy where that is the signal
    usage: Usage = field(default_factory=Usage)  # only read here: the accounting owns it
    mid_character: bool = False  # whether the text ends within a character; of models that hand over through text
    segment_start: int = 0  # position of the open segment's first token

    @property
    def position(self) -> int:
        return self.start + len(self.entropies)

    @property
    def num_llm_tokens(self) -> int:
        return self.usage.num_llm_tokens

    @property
    def num_switches(self) -> int:
        """Hand-overs in either direction, those whose segment is still empty included."""
        return self.usage.num_switches

    def grow(self, entropies: array[float], uncertainties: array[float]) -> None:
        """Adds kept tokens, at least one; `uncertainties` is empty where the signal is the entropy."""
        self.entropies.extend(entropies)
        self.uncertainty = (uncertainties or entropies)[-1]


class Policy(ABC):
    """Decides who writes each token: a frozen value without memory, for all that it needs is in the history."""

    __slots__ = ()
    name: ClassVar[str]
    # Whether it decides who writes what; otherwise the tokens are the LLM's, whoever writes them.
    routes: ClassVar[bool] = True

    @property
    def runs_ahead(self) -> bool:
        """Whether the SLM's worker alone can tell where the SLM would stop next."""
        return False

    @property
    def explores(self) -> bool:
        """Whether decisions are drawn: such an answer is repeated by its seed, whatever the guard would choose."""
        return False

    @abstractmethod
    def first_writer(self, history: History) -> Model:
        """Says who writes the answer's first token."""

    @abstractmethod
    def next_writer(self, writer: Model, history: History) -> Model | None:
        """Says who writes after `writer` kept the last token of the history; None: nobody, the answer ends there."""

    @abstractmethod
    def may_write(self, model: Model) -> bool:
        """Whether `model` can ever become the writer; if so, it is worth keeping it caught up."""

    def may_switch(self, history: History) -> bool:
        """Whether the writer may change after the last token of the history, whatever the signals say."""
        return True

    def is_spent(self, history: History) -> bool:
        """Whether the SLM may no longer hand over, because what the answer may take of the LLM is taken."""
        return False

    def may_still_write(self, model: Model, history: History) -> bool:
        """Whether `model` can become the writer from here on."""
        return self.may_write(model)

    def handoff(self, writer: Model, history: History) -> Handoff | None:
        """The condition under which `writer` hands over; None: never."""
        return None

    def run_length(self, writer: Model, history: History) -> int | None:
        """Number of tokens after which `writer` stops in any case; None: no such limit."""
        return None

    def tokens_left(self, writer: Model, history: History) -> int | None:
        """Number of tokens that `writer` may write in the rest of the answer; None: no such limit."""
        return None

    def switch_reason(self, leaving: Model, history: History) -> SwitchReason:
        """Why `leaving` hands over after the last token of the history."""
        return SwitchReason.NONE

    def bound(self, leaving: Model) -> float | None:
        """The bound that the signal is compared with before `leaving` hands over, if there is one; for people."""
        return None
