"""What a router tells of itself and of what it keeps, as plain frozen values: trajectories and states.

They mirror protos/rstitch/v1/router.proto, which says what each field means. They know no wire.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from rstitch.client.events import Consultation, Finished, Model, SwitchReason, TokenDetail
from rstitch.client.policies import Policy

# fmt: off
__all__ = [
    "Cancelled", "GuardStatus", "HeadStatus", "Label", "Segment", "Source", "Status", "Tokenized", "Trajectory",
    "TrajectoryPage",
    "TrajectoryState", "WorkerDrain", "WorkerMember", "WorkerStatus",
]
# fmt: on


class Source(StrEnum):
    """Says who put the tokens of a segment there."""

    UNSPECIFIED = "unspecified"
    PROMPT = "prompt"
    SLM = "slm"
    LLM = "llm"


class Label(StrEnum):
    """Says whether an answer was right, if somebody said so."""

    UNSPECIFIED = "unspecified"
    RIGHT = "right"
    WRONG = "wrong"


class TrajectoryState(StrEnum):
    """Says whether a trajectory is being written, complete, or stopped on the way."""

    UNSPECIFIED = "unspecified"
    RUNNING = "running"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Says how a session is, now that nobody writes in it; `length` counts its tokens, prompt included."""

    cancelled: bool  # whether an answer was being written, which the call ended
    state: TrajectoryState
    length: int


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive tokens from one source; `reason` and `switch_entropy` say why it began, if by a switch."""

    source: Source
    position: int
    tokens: tuple[int, ...]
    entropies: tuple[float, ...]
    text: str
    reason: SwitchReason
    switch_entropy: float
    uncertainties: tuple[float, ...] = ()
    consultations: tuple[Consultation, ...] = ()  # what the head was asked, if that was kept and is asked for
    details: tuple[TokenDetail, ...] = ()  # one per token, if they were kept and are asked for


@dataclass(frozen=True, slots=True)
class Trajectory:
    """All that is known of a session; in a listing the segments are left out."""

    session_id: str
    state: TrajectoryState
    length: int
    epoch: int
    segments: tuple[Segment, ...]
    policy: Policy | None
    finished: Finished | None
    created: datetime
    updated: datetime
    label: Label = Label.UNSPECIFIED  # of the last answer
    trace_id: str = ""  # of the last answer; empty if it is not traced

    @property
    def text(self) -> str:
        """Joins the texts of all segments, the prompt's included."""
        return "".join(segment.text for segment in self.segments)

    @property
    def tokens(self) -> tuple[int, ...]:
        """Joins the tokens of all segments, the prompt's included."""
        return tuple(token for segment in self.segments for token in segment.tokens)


@dataclass(frozen=True, slots=True)
class TrajectoryPage:
    """Some trajectories, newest first, without segments; `next_page_token` is empty on the last page."""

    trajectories: tuple[Trajectory, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class Tokenized:
    """Tokens of a model in its own ids, and the bytes of each; a special token is spelled out."""

    tokens: tuple[int, ...]
    texts: tuple[bytes, ...]
    context_length: int  # the most tokens that the model reads, an answer's included


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker as the router sees it; `detail` says what is waited for if it is not ready."""

    role: Model
    address: str
    ready: bool
    detail: str
    model: str
    device: str
    dtype: str
    num_parameters: int
    context_length: int


@dataclass(frozen=True, slots=True)
class WorkerMember:
    """A worker of the fleet, as the router sees it; figures are those that it said last."""

    id: str
    role: Model
    address: str
    ready: bool
    draining: bool
    detail: str  # why it is not ready, if it is not
    num_running: int
    num_sessions: int
    num_free_pages: int
    num_pages: int
    fingerprint: str  # of its weights and of its tokenizer
    num_cards: int = 1


@dataclass(frozen=True, slots=True)
class WorkerDrain:
    """Says how far a worker is that is to get no new sessions: its runs, and the answers that have a stream there."""

    num_running: int
    num_streams: int
    is_empty: bool


@dataclass(frozen=True, slots=True)
class HeadStatus:
    """A head of the policy `learned`; `detail` says why it cannot be asked for, if it cannot.

    `active` if this version is what its name stands for, `stored` if the store has it and not the router's folder.
    """

    name: str
    version: str
    tau: float  # that it was trained with
    detail: str
    features: tuple[str, ...]
    active: bool
    description: str
    stored: bool
    updated: datetime | None = None  # when it was last put into the store
    ttl_s: int | None = None  # in so many seconds the store forgets it; None: it stays, or is not in the store

    @property
    def full_name(self) -> str:
        """NAME@VERSION, under which this very head is asked for."""
        return self.name if "@" in self.name or not self.version else f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class GuardStatus:
    """Says what routing costs and saves, as measured; times are in microseconds, 0 where unknown."""

    llm_only: bool = False  # new answers go to the LLM alone where the guard is on
    reason: str = ""
    routed_us: int = 0
    llm_only_us: int = 0
    num_routed: int = 0
    num_llm_only: int = 0
    on: bool = False  # where a request does not say


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a router and of what is behind it; `ready` says whether it takes questions."""

    ready: bool
    detail: str
    workers: tuple[WorkerStatus, ...]
    policies: tuple[str, ...]
    default_tau: float
    num_running: int
    version: str
    guard: GuardStatus = GuardStatus()
    vocabularies: str = ""  # how the two models' were matched, and which ids neither may write
    heads: tuple[HeadStatus, ...] = ()  # that `Learned` can name
    members: tuple[WorkerMember, ...] = ()  # all workers of both roles
