"""What an answer took: tokens, switches, time."""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any


@dataclass(slots=True)
class TimeBreakdown:
    """Where an answer's time went so far; fields as in the contract."""

    slm_forward_us: int = 0
    llm_forward_us: int = 0
    background_us: int = 0
    scheduling_us: int = 0
    waiting_us: int = 0
    transport_us: int = 0
    store_us: int = 0
    routing_us: int = 0


@dataclass(slots=True)
class Usage:
    """What an answer took so far; fields as in the contract, and where its thinking ended early: kept together."""

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
    breakdown: TimeBreakdown = field(default_factory=TimeBreakdown)
    num_draft_tokens: int = 0
    num_accepted_draft_tokens: int = 0
    num_trials: int = 0
    num_trial_tokens: int = 0
    trial_time_us: int = 0
    num_consultations: int = 0
    exit_position: int = 0  # of the first token of the exit's prompt; 0: the thinking did not end early
    exit_confidence: float = 0.0

    def record_trial(self, num_tokens: int, time_us: int) -> None:
        """A trial answer was decoded."""
        self.num_trials += 1
        self.num_trial_tokens += num_tokens
        self.trial_time_us += time_us

    def as_dict(self) -> dict[str, Any]:
        """By field name."""
        made = {name: getattr(self, name) for name in self.__slots__}
        made["breakdown"] = {name: getattr(self.breakdown, name) for name in self.breakdown.__slots__}
        return made

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Usage:
        """The inverse; what an older router did not count stays 0."""
        return cls(**{**fields, "breakdown": TimeBreakdown(**fields.get("breakdown", {}))})

    def copy(self) -> Usage:
        """As it is now."""
        made = Usage(*_USAGE(self))
        made.breakdown = TimeBreakdown(*_BREAKDOWN(self.breakdown))
        return made


# Every append copies: `copy.copy` takes four times as long.
_USAGE = attrgetter(*Usage.__slots__)


_BREAKDOWN = attrgetter(*TimeBreakdown.__slots__)
