"""What comes of a question, as plain frozen values: the events of an answer, and the answer that they make.

They mirror protos/rstitch/v1/router.proto, which says what each field means. They know no wire.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from rstitch.client.policies import Policy

# fmt: off
__all__ = [
    "Alternative", "Answer", "Chunk", "Consultation", "EarlyExitTaken", "Event", "FinishReason", "Finished", "Model",
    "Observation", "Started", "Switch", "SwitchReason", "TimeBreakdown", "TokenDetail", "Usage",
]
# fmt: on


class Model(StrEnum):
    """One of the two models that write an answer."""

    UNSPECIFIED = "unspecified"
    SLM = "slm"
    LLM = "llm"


class SwitchReason(StrEnum):
    """Says why the writer changed, by what the policy looked at."""

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


class FinishReason(StrEnum):
    """Says why an answer ended, by itself or by a bound."""

    UNSPECIFIED = "unspecified"
    STOP = "stop"
    STOP_STRING = "stop_string"
    LENGTH = "length"
    BUDGET = "budget"


@dataclass(frozen=True, slots=True)
class Started:
    """The session is open: always the first event. `position` is that of the first token to come."""

    session_id: str
    num_prompt_tokens: int
    position: int
    trace_id: str
    prompt_end: str = ""  # how the prompt ends, special tokens spelled out: a template may have begun the answer


@dataclass(frozen=True, slots=True)
class Consultation:
    """One question to the head of R-Stitch+, and what it said.

    Attributes:
        position: the position that was to be written.
        hidden_state: the SLM's last hidden state there, float16 little-endian, [hidden_size].
        entropy: the SLM's.
        proposal: the token that the SLM would write.
        features: what else the head was shown, in its own order.
        probability: with which the LLM was to write the position.
        to_llm: the decision.
        context_length: tokens that the SLM had read before.
    """

    position: int
    hidden_state: bytes
    entropy: float
    proposal: int
    features: tuple[float, ...] = ()
    probability: float = 0.0
    to_llm: bool = False
    context_length: int = 0


@dataclass(frozen=True, slots=True)
class Observation:
    """What the SLM would have thought at one position of an answer, and what stands there.

    Attributes:
        consultation: without a head's part; its proposal is in the SLM's ids.
        token: that stands there, in the SLM's ids.
        writer: of that; UNSPECIFIED in an answer that was given.
    """

    consultation: Consultation
    token: int
    writer: Model


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token could have been written in another's place.

    Attributes:
        token: its id, as those of the chunk.
        logprob: natural, in the model's own distribution.
        text: its bytes; a special token is spelled out.
    """

    token: int
    logprob: float
    text: bytes


@dataclass(frozen=True, slots=True)
class TokenDetail:
    """One token of an answer, in detail.

    Attributes:
        logprob: natural, in the model's own distribution; None where none was computed, as of early exit's prompt.
        text: the bytes that it adds to the answer, which may be a part of a character; empty for special tokens.
        alternatives: the most probable tokens there, as many as were asked for, the most probable first.
    """

    logprob: float | None
    text: bytes
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """One model wrote consecutive tokens, which complete `text`."""

    model: Model
    position: int
    tokens: tuple[int, ...]
    entropies: tuple[float, ...]
    text: str
    uncertainties: tuple[float, ...] = ()  # the policy's signal, one per token; empty where that is the entropy
    consultations: tuple[Consultation, ...] = ()  # what the head was asked for these tokens, if that is kept
    details: tuple[TokenDetail, ...] = ()  # one per token, if they were asked for


@dataclass(frozen=True, slots=True)
class Switch:
    """The writer changed; `position` is the first of the new segment."""

    from_model: Model
    to_model: Model
    position: int
    entropy: float  # the value that decided, also of a policy with another signal
    reason: SwitchReason


@dataclass(frozen=True, slots=True)
class TimeBreakdown:
    """Says where an answer's time went, in microseconds; each part is that of `TimeBreakdown` in the contract."""

    slm_forward_us: int = 0
    llm_forward_us: int = 0
    background_us: int = 0  # runs beside the decoding and is not part of the total time
    scheduling_us: int = 0
    waiting_us: int = 0
    transport_us: int = 0
    store_us: int = 0
    routing_us: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts what an answer took; times are in microseconds."""

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
    num_cached_tokens: int = 0
    num_kept_consultations: int = 0
    num_reused_prompt_tokens: int | None = None

    @property
    def num_tokens(self) -> int:
        return self.num_slm_tokens + self.num_llm_tokens

    @property
    def llm_share(self) -> float:
        """Gives the part of the tokens that the LLM wrote, in [0, 1]; 0 where there are none."""
        return self.num_llm_tokens / self.num_tokens if self.num_tokens else 0.0


@dataclass(frozen=True, slots=True)
class EarlyExitTaken:
    """The thinking ended at `position`, with a trial answer of this mean token probability."""

    position: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer is complete: always the last event."""

    reason: FinishReason
    usage: Usage
    length: int  # of the session in tokens, prompt included
    policy: Policy | None = None  # that wrote it; None: a router that does not say
    guard_reason: str = ""  # why it is not the policy that was asked for
    budget_spent: tuple[str, ...] = ()  # the bounds that were reached
    early_exit: EarlyExitTaken | None = None  # where the thinking ended
    profile: str = ""  # where the policy came from


Event: TypeAlias = Started | Chunk | Switch | Finished


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, as its events tell it."""

    session_id: str
    text: str
    chunks: tuple[Chunk, ...]
    switches: tuple[Switch, ...]
    finished: Finished

    @property
    def tokens(self) -> tuple[int, ...]:
        return tuple(token for chunk in self.chunks for token in chunk.tokens)

    @property
    def details(self) -> tuple[TokenDetail, ...]:
        """Gives the details of all tokens, in order, if they were asked for."""
        return tuple(detail for chunk in self.chunks for detail in chunk.details)

    @property
    def consultations(self) -> tuple[Consultation, ...]:
        """Gives what the head was asked, in order, if that was kept."""
        return tuple(asked for chunk in self.chunks for asked in chunk.consultations)

    @classmethod
    def of(cls, events: Iterable[Event]) -> Answer:
        """Puts a complete stream of events together. Raises: ValueError where Finished is missing."""
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
