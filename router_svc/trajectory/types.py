"""The words of the router: models, chunks and their sources, how answers end, headers and whole trajectories.

It knows neither wire nor store. The numbers of the enums are those of the contract, and are stored.

A trajectory's chunks follow each other without a gap; another source or a switch begins a segment:

    position   0          7           12        15              21
    chunk      |  PROMPT  |  SLM      |  SLM    |  LLM          |  SLM ...
    reason     NONE       NONE        NONE      ENTROPY_ABOVE   ENTROPY_BELOW
    segment    |  1       |  2                  |  3            |  4
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from router_svc.trajectory.binding import UNBOUND, Binding
from router_svc.trajectory.consultations import Consultation
from router_svc.trajectory.details import cut_details, unknown_details
from router_svc.trajectory.usage import Usage


class Model(IntEnum):
    """One of the two models of the pair."""

    SLM = 1
    LLM = 2

    @property
    def other(self) -> Model:
        return Model.LLM if self is Model.SLM else Model.SLM

    @property
    def source(self) -> Source:
        return Source.SLM if self is Model.SLM else Source.LLM

    @property
    def label(self) -> str:
        return self.name.lower()


class Source(IntEnum):
    """Who put tokens into a trajectory: the client with a prompt, or one of the models."""

    PROMPT = 1
    SLM = 2
    LLM = 3

    @property
    def model(self) -> Model:
        """The model that wrote them. Raises ValueError for a prompt, which no model wrote."""
        if self is Source.PROMPT:
            raise ValueError("no model wrote a prompt")
        return Model.SLM if self is Source.SLM else Model.LLM


class SwitchReason(IntEnum):
    """Why a segment began: what made the models switch, NONE where they did not."""

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
    """What an answer ended with: a stop token, a stop string, its limit, or the end of its budget."""

    STOP = 1
    STOP_STRING = 2
    LENGTH = 3
    BUDGET = 4


class State(StrEnum):
    """How far a trajectory's last answer has come. RUNNING is what its router wrote last, even if that router died."""

    RUNNING = "running"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Ended:
    """A session whose answer was to be cancelled, once nobody writes it any more; `length` is in tokens."""

    state: State  # RUNNING where another answer was begun meanwhile
    length: int
    was_cancelled: bool  # False where it was over before


class Label(StrEnum):
    """What somebody said of a finished answer."""

    RIGHT = "right"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class ModelPrompt:
    """A prompt as one model reads it, in its own ids.

    Of all that it has read before the first `num_before` tokens stay, then come `tokens`.
    """

    num_before: int
    tokens: array[int]


@dataclass(frozen=True, slots=True)
class PromptNotes:
    """What is kept of a prompt beside its tokens.

    Attributes:
        llm_num_before: of all that the LLM has read before, so many tokens stay; None: all.
        slm: the prompt as the SLM reads it; None: as the trajectory has it.
        turn: what was asked, as JSON, so that the next turn can render the whole conversation; "" if it was no chat.
    """

    llm_num_before: int | None = None
    slm: ModelPrompt | None = None
    turn: str = ""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive tokens from one source: a segment, or a piece of one.

    A chunk with a switch reason begins a segment. It may be empty: a model became the writer, and its first proposal
    was discarded. Entropies and uncertainties are one number per token.
    """

    source: Source
    position: int  # of the first token, counted from the session's start
    tokens: array[int]
    entropies: array[float]  # empty for a prompt
    reason: SwitchReason = SwitchReason.NONE  # NONE within a segment and for the first one of an answer
    switch_entropy: float = 0.0  # the value that decided the switch, an entropy or another signal; 0 if none did
    uncertainties: array[float] = field(default_factory=lambda: entropies_of())  # the signal, where it is another
    notes: PromptNotes | None = None  # of a prompt that says more than its tokens
    consultations: tuple[Consultation, ...] = ()  # what the head was asked for these tokens, if that is kept
    details: bytes = b""  # one for each token, packed, if they are kept: only who shows them unpacks them

    @property
    def end(self) -> int:
        return self.position + len(self.tokens)

    def since(self, position: int) -> Chunk:
        """The chunk without its tokens before `position`. What is left of a cut one is the middle of a segment."""
        if position <= self.position:
            return self
        # No reason is kept: the segment's beginning was stored, or shown, with the tokens that are cut off.
        skip = position - self.position
        return Chunk(
            self.source,
            position,
            self.tokens[skip:],
            self.entropies[skip:],
            uncertainties=self.uncertainties[skip:],
            consultations=tuple(asked for asked in self.consultations if asked.position >= position),
            details=cut_details(self.details, skip),
        )


def tokens_of(ids: Iterable[int] = ()) -> array[int]:
    """Token ids as the router keeps them everywhere: four bytes each, as many as a vocabulary needs."""
    return array("I", ids)


def entropies_of(values: Iterable[float] = ()) -> array[float]:
    """Entropies as the router keeps them everywhere, rounded to float32 as the wire and Redis have them."""
    return array("f", values)


def common_prefix(left: array[int], right: array[int]) -> int:
    """How many tokens two rows begin with in common."""
    num = min(len(left), len(right))
    if left[:num] == right[:num]:
        return num
    low, high = 0, num  # the rows agree in their first `low` tokens and do not in their first `high`
    while high - low > 1:
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low


def joined(chunks: Iterable[Chunk]) -> list[Chunk]:
    """The same tokens in as few chunks as keep sources and switches apart: of whole answers these are the segments."""
    segments: list[list[Chunk]] = []
    for chunk in chunks:
        last = segments[-1][-1] if segments else None
        # A reason or a prompt begins a segment; a gap is kept for whoever gives chunks that do not follow each other.
        begins = chunk.reason or chunk.source is Source.PROMPT
        if last is not None and last.source is chunk.source and not begins and last.end == chunk.position:
            segments[-1].append(chunk)
        else:
            segments.append([chunk])
    return [_merged(pieces) if len(pieces) > 1 else pieces[0] for pieces in segments]


def _merged(pieces: Sequence[Chunk]) -> Chunk:
    """The pieces as one chunk. Each is copied once, since an answer may be one segment of thousands."""
    first = pieces[0]
    return Chunk(
        first.source,
        first.position,
        joined_tokens(pieces),
        _joined_floats(piece.entropies for piece in pieces),
        first.reason,
        first.switch_entropy,
        _joined_floats(piece.uncertainties for piece in pieces),
        consultations=tuple(asked for piece in pieces for asked in piece.consultations),
        details=_joined_details(pieces),
    )


def _joined_floats(rows: Iterable[array[float]]) -> array[float]:
    made = entropies_of()
    for row in rows:
        made.extend(row)
    return made


def _joined_details(pieces: Sequence[Chunk]) -> bytes:
    """Those of all; where a router that knows none of them has written a piece, its tokens' are unknown."""
    if not any(piece.details for piece in pieces):
        return b""
    return b"".join(piece.details or unknown_details(len(piece.tokens)) for piece in pieces)


def joined_tokens(chunks: Iterable[Chunk]) -> array[int]:
    """The token ids of chunks, in order."""
    made = tokens_of()
    for chunk in chunks:
        made.extend(chunk.tokens)
    return made


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen; the default is greedy, as a temperature of 0 means the likeliest token."""

    temperature: float = 0.0
    top_p: float = 0.0
    top_k: int = 0
    seed: int = 0
    min_p: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()  # by token, each once
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0

    @property
    def penalizes(self) -> bool:
        """Whether a choice depends on the answer's tokens before it."""
        return bool(self.presence_penalty or self.frequency_penalty) or self.repetition_penalty != 1


@dataclass(frozen=True, slots=True)
class Finished:
    """How an answer ended, what it took, and how many tokens its session has then."""

    reason: FinishReason
    usage: Usage
    length: int


@dataclass(frozen=True, slots=True)
class Header:
    """All of a trajectory but its tokens: what a claim and a listing read; settings and usage are the last answer's."""

    session_id: str
    state: State
    length: int  # in tokens, prompts included
    epoch: int  # counts the claims, but for that of a router whose own answer before it was finished
    owner: str  # id of the router that claimed it last
    settings: str  # as `AnswerSettings.to_json` wrote it
    usage: Usage
    finish: FinishReason | None
    created_ms: int  # Unix time
    updated_ms: int  # Unix time
    label: Label | None = None  # of the last answer
    binding: Binding = UNBOUND  # the workers that hold the session

    @property
    def finished(self) -> Finished | None:
        return Finished(self.finish, self.usage, self.length) if self.finish is not None else None


@dataclass(frozen=True, slots=True)
class Trajectory:
    """All that is stored of a session. Its chunks cover [0, header.length) without a gap."""

    header: Header
    chunks: Sequence[Chunk] = field(default_factory=tuple)

    def tokens(self) -> array[int]:
        return joined_tokens(self.chunks)
