"""What a client sends and gets, as plain frozen values.

They mirror protos/rstitch/v1/router.proto, which says what each field means. They know no wire.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias


class Model(StrEnum):
    """Which model of the pair."""

    UNSPECIFIED = "unspecified"
    SLM = "slm"
    LLM = "llm"


class Source(StrEnum):
    """Who put a segment's tokens there."""

    UNSPECIFIED = "unspecified"
    PROMPT = "prompt"
    SLM = "slm"
    LLM = "llm"


class SwitchReason(StrEnum):
    """Why the pen was handed over."""

    UNSPECIFIED = "unspecified"
    ENTROPY_ABOVE = "entropy_above"
    ENTROPY_BELOW = "entropy_below"
    UNCERTAINTY_ABOVE = "uncertainty_above"
    UNCERTAINTY_BELOW = "uncertainty_below"
    HEAD = "head"
    COIN = "coin"
    VERIFICATION = "verification"
    DRAFT = "draft"
    BUDGET = "budget"


class Signal(StrEnum):
    """How unsure a model is of its next token, as a number in [0, 1]: the higher, the less sure."""

    UNSPECIFIED = "unspecified"
    ENTROPY = "entropy"
    CONFIDENCE = "confidence"
    MARGIN = "margin"
    ENTROPY_WINDOW = "entropy_window"


class FinishReason(StrEnum):
    """Why an answer ended."""

    UNSPECIFIED = "unspecified"
    STOP = "stop"
    STOP_STRING = "stop_string"
    LENGTH = "length"
    BUDGET = "budget"


class TrajectoryState(StrEnum):
    """Whether a trajectory is being written, complete, or stopped on the way."""

    UNSPECIFIED = "unspecified"
    RUNNING = "running"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Threshold:
    """R-Stitch: the SLM writes while its signal is at most `tau`, the LLM hands back at `tau_return` (None: `tau`).

    `signal` is the entropy where it is unspecified; `window` (0: the router's) goes with `ENTROPY_WINDOW` only.
    """

    tau: float
    tau_return: float | None = None
    signal: Signal = Signal.UNSPECIFIED
    window: int = 0


@dataclass(frozen=True, slots=True)
class Learned:
    """R-Stitch+: the head `name` decides where the entropy is over `tau` (None: that of its training)."""

    name: str
    tau: float | None = None


@dataclass(frozen=True, slots=True)
class Confidence:
    """R-Stitch v1: an SLM token less probable than `threshold` goes to the LLM."""

    threshold: float


@dataclass(frozen=True, slots=True)
class LlmOnly:
    """The LLM alone."""


@dataclass(frozen=True, slots=True)
class SlmOnly:
    """The SLM alone."""


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
    """The policy that the router keeps under this name."""

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
    """What an answer may take of the LLM: tokens, hand-overs (None: no bound); then the SLM goes on, or it stops."""

    llm_tokens: int | None = None
    max_switches: int | None = None
    stop: bool = False


@dataclass(frozen=True, slots=True)
class KeptProfile:
    """A policy kept under a name, what goes with it, in words how it was found, and when (the router's to set)."""

    name: str
    policy: Policy
    early_exit: EarlyExit | None = None
    budget: Budget | None = None
    description: str = ""
    updated: datetime | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is chosen; the default is greedy. top_p 0 and top_k 0 mean all tokens."""

    temperature: float = 0.0
    top_p: float = 0.0
    top_k: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Started:
    """First event: the session is open; `position` is that of the first token to come."""

    session_id: str
    num_prompt_tokens: int
    position: int
    trace_id: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive tokens by one model, and the text that they complete.

    `uncertainties` is the policy's signal, one per token; empty where that is the entropy.
    """

    model: Model
    position: int
    tokens: tuple[int, ...]
    entropies: tuple[float, ...]
    text: str
    uncertainties: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Switch:
    """The pen went from one model to the other; `position` is the first of the new segment.

    `entropy` is the value that decided, also of a policy with another signal.
    """

    from_model: Model
    to_model: Model
    position: int
    entropy: float
    reason: SwitchReason


@dataclass(frozen=True, slots=True)
class TimeBreakdown:
    """Where an answer's time went, in microseconds; each part as in `TimeBreakdown` of the contract.

    What runs beside the decoding (`background_us`) is not part of the total time.
    """

    slm_forward_us: int = 0
    llm_forward_us: int = 0
    background_us: int = 0
    scheduling_us: int = 0
    waiting_us: int = 0
    transport_us: int = 0
    store_us: int = 0
    routing_us: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer took. Times in microseconds."""

    num_prompt_tokens: int = 0
    num_slm_tokens: int = 0
    num_llm_tokens: int = 0
    num_discarded_proposals: int = 0
    num_switches: int = 0
    num_catch_up_tokens: int = 0
    slm_time_us: int = 0
    llm_time_us: int = 0
    time_to_first_token_us: int = 0
    total_time_us: int = 0
    slm_forward_us: int = 0
    llm_forward_us: int = 0
    num_run_ahead_tokens: int = 0
    num_run_ahead_discarded: int = 0
    breakdown: TimeBreakdown = TimeBreakdown()
    num_draft_tokens: int = 0
    num_accepted_draft_tokens: int = 0
    num_trials: int = 0
    num_trial_tokens: int = 0
    trial_time_us: int = 0
    num_consultations: int = 0

    @property
    def num_tokens(self) -> int:
        """Tokens of the answer."""
        return self.num_slm_tokens + self.num_llm_tokens

    @property
    def llm_share(self) -> float:
        """Part of the answer's tokens that the LLM wrote, in [0, 1]."""
        return self.num_llm_tokens / self.num_tokens if self.num_tokens else 0.0


@dataclass(frozen=True, slots=True)
class EarlyExitTaken:
    """The thinking ended at `position`, with a trial answer of this mean token probability."""

    position: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Finished:
    """Last event: the answer is complete; `length` counts the session's tokens, prompt included.

    `policy` is who wrote it (None: a router that does not say), `profile` where that came from, `guard_reason` why it
    is not what was asked for; `budget_spent` names the bounds that were reached, `early_exit` where the thinking ended.
    """

    reason: FinishReason
    usage: Usage
    length: int
    policy: Policy | None = None
    guard_reason: str = ""
    budget_spent: tuple[str, ...] = ()
    early_exit: EarlyExitTaken | None = None
    profile: str = ""


Event: TypeAlias = Started | Chunk | Switch | Finished


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: its events, put together."""

    session_id: str
    text: str
    chunks: tuple[Chunk, ...]
    switches: tuple[Switch, ...]
    finished: Finished

    @property
    def tokens(self) -> tuple[int, ...]:
        """All token ids of the answer, in order."""
        return tuple(token for chunk in self.chunks for token in chunk.tokens)

    @classmethod
    def of(cls, events: Iterable[Event]) -> Answer:
        """The answer that a complete stream of events tells."""
        session_id, chunks, switches, finished = "", [], [], None
        for event in events:
            match event:
                case Started():
                    session_id = event.session_id
                case Chunk():
                    chunks.append(event)
                case Switch():
                    switches.append(event)
                case Finished():
                    finished = event
        if finished is None:
            raise ValueError("the events have no Finished among them")
        text = "".join(chunk.text for chunk in chunks)
        return cls(session_id, text, tuple(chunks), tuple(switches), finished)


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of tokens from one source; `reason` and `switch_entropy` say why it began, if by a switch."""

    source: Source
    position: int
    tokens: tuple[int, ...]
    entropies: tuple[float, ...]
    text: str
    reason: SwitchReason
    switch_entropy: float
    uncertainties: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Trajectory:
    """All that is known of a session. In a list the segments are left out."""

    session_id: str
    state: TrajectoryState
    length: int
    epoch: int
    segments: tuple[Segment, ...]
    policy: Policy | None
    finished: Finished | None
    created: datetime
    updated: datetime

    @property
    def text(self) -> str:
        """The whole text, prompt included."""
        return "".join(segment.text for segment in self.segments)

    @property
    def tokens(self) -> tuple[int, ...]:
        """All token ids, prompt included."""
        return tuple(token for segment in self.segments for token in segment.tokens)


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker as the router sees it."""

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
class GuardStatus:
    """What routing costs and saves, as measured; times in microseconds, 0 where unknown.

    `llm_only` says whether new answers go to the LLM alone where the guard is on, `on` whether it is where a request
    does not say.
    """

    llm_only: bool = False
    reason: str = ""
    routed_us: int = 0
    llm_only_us: int = 0
    num_routed: int = 0
    num_llm_only: int = 0
    on: bool = False


@dataclass(frozen=True, slots=True)
class Status:
    """The router and what is behind it."""

    ready: bool
    detail: str
    workers: tuple[WorkerStatus, ...]
    policies: tuple[str, ...]
    default_tau: float
    num_running: int
    version: str
    guard: GuardStatus = GuardStatus()
