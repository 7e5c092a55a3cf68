"""The words of the router: models, chunks, segments, what an answer was asked for and what it took.

It knows neither wire nor store; numbers of enums are those of the contract.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from router_svc.trajectory.usage import Usage


class Model(IntEnum):
    """One of the two models of the pair."""

    SLM = 1
    LLM = 2

    @property
    def other(self) -> Model:
        """The one that waits while this one writes."""
        return Model.LLM if self is Model.SLM else Model.SLM

    @property
    def source(self) -> Source:
        """As the author of tokens."""
        return Source.SLM if self is Model.SLM else Source.LLM

    @property
    def label(self) -> str:
        """For people, logs and spans."""
        return self.name.lower()


class Source(IntEnum):
    """Who put tokens into a trajectory."""

    PROMPT = 1
    SLM = 2
    LLM = 3

    @property
    def model(self) -> Model:
        """The model; ValueError for a prompt."""
        return Model(self - 1)


class SwitchReason(IntEnum):
    """Why a segment began."""

    NONE = 0
    ENTROPY_ABOVE = 1
    ENTROPY_BELOW = 2
    UNCERTAINTY_ABOVE = 3
    UNCERTAINTY_BELOW = 4
    HEAD = 5
    COIN = 6
    VERIFICATION = 7
    DRAFT = 8
    BUDGET = 9


class Signal(IntEnum):
    """How unsure a model is of a token: numbers in [0, 1], the higher the less sure."""

    ENTROPY = 1
    CONFIDENCE = 2
    MARGIN = 3
    ENTROPY_WINDOW = 4


class FinishReason(IntEnum):
    """Why an answer is complete."""

    STOP = 1
    STOP_STRING = 2
    LENGTH = 3
    BUDGET = 4


class State(StrEnum):
    """State of a trajectory."""

    RUNNING = "running"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive tokens from one source: a segment, or a piece of one.

    A chunk with a switch reason begins a segment. It may be empty: a model got the pen and its first proposal was
    discarded.

    Attributes:
        source: who wrote them.
        position: of the first token, counted from the session's start.
        tokens: array('I').
        entropies: array('f'), one per token; empty for a prompt.
        reason: why the segment began, NONE within a segment and for the first of an answer.
        switch_entropy: the value that decided, the entropy or another signal; 0 without one.
        uncertainties: the policy's signal, array('f'), one per token; empty where that is the entropy.
    """

    source: Source
    position: int
    tokens: array[int]
    entropies: array[float]
    reason: SwitchReason = SwitchReason.NONE
    switch_entropy: float = 0.0
    uncertainties: array[float] = field(default_factory=lambda: entropies_of())

    @property
    def end(self) -> int:
        """Position after the last token."""
        return self.position + len(self.tokens)

    def since(self, position: int) -> Chunk:
        """Without the tokens before `position`; what is left of a cut one is the middle of a segment."""
        if position <= self.position:
            return self
        skip = position - self.position
        uncertainties = self.uncertainties[skip:]
        return Chunk(self.source, position, self.tokens[skip:], self.entropies[skip:], uncertainties=uncertainties)


def tokens_of(ids: Iterable[int] = ()) -> array[int]:
    """Token ids as kept throughout the router."""
    return array("I", ids)


def entropies_of(values: Iterable[float] = ()) -> array[float]:
    """Entropies, rounded to float32."""
    return array("f", values)


def joined(chunks: Iterable[Chunk]) -> list[Chunk]:
    """The same tokens in as few chunks as keep sources and switches apart: whole segments, given whole answers."""
    made: list[Chunk] = []
    for chunk in chunks:
        last = made[-1] if made else None
        if last is not None and last.source is chunk.source and not chunk.reason and last.end == chunk.position:
            made[-1] = Chunk(
                last.source,
                last.position,
                last.tokens + chunk.tokens,
                last.entropies + chunk.entropies,
                last.reason,
                last.switch_entropy,
                last.uncertainties + chunk.uncertainties,
            )
        else:
            made.append(chunk)
    return made


def joined_tokens(chunks: Iterable[Chunk]) -> array[int]:
    """The token ids of chunks, in order."""
    made = tokens_of()
    for chunk in chunks:
        made.extend(chunk.tokens)
    return made


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen; the default is greedy."""

    temperature: float = 0.0
    top_p: float = 0.0
    top_k: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """How an answer ended."""

    reason: FinishReason
    usage: Usage
    length: int


@dataclass(frozen=True, slots=True)
class Header:
    """A trajectory without its tokens.

    Attributes:
        session_id: whose.
        state: as written; a RUNNING one may have lost its router.
        length: tokens in all.
        epoch: counts the routers that have owned it.
        owner: the router that owned it last.
        settings: of the last answer, as `AnswerSettings.to_json` made it.
        usage: of the last answer so far.
        finish: how the last answer ended, None before.
        created_ms: Unix time of the first token.
        updated_ms: Unix time of the last change.
    """

    session_id: str
    state: State
    length: int
    epoch: int
    owner: str
    settings: str
    usage: Usage
    finish: FinishReason | None
    created_ms: int
    updated_ms: int

    @property
    def finished(self) -> Finished | None:
        """How the last answer ended, if it has."""
        return Finished(self.finish, self.usage, self.length) if self.finish is not None else None


@dataclass(frozen=True, slots=True)
class Trajectory:
    """All that is known of a session; its chunks cover [0, header.length)."""

    header: Header
    chunks: Sequence[Chunk] = field(default_factory=tuple)

    def tokens(self) -> array[int]:
        """All token ids in order."""
        return joined_tokens(self.chunks)
