"""What an answer took: tokens, switches, time.

It is stored with every append, so that whoever goes on with an answer after a crash goes on counting.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any


@dataclass(slots=True)
class TimeBreakdown:
    """Where an answer's time went so far, in fields that are explained in the contract."""

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
    """What an answer took so far, in fields that are explained in the contract, and where its thinking ended early."""

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
    num_cached_tokens: int = 0
    num_kept_consultations: int = 0
    num_reused_prompt_tokens: int | None = None  # None until the answer has ended, and where it cannot be counted
    # Position of the first token of the exit's prompt; 0 if the thinking did not end early: an answer begins behind its
    # prompt, so no exit is at 0. Kept here because it must be stored with the token that it counts, as all of this is.
    exit_position: int = 0
    exit_confidence: float = 0.0

    def record_trial(self, num_tokens: int, time_us: int) -> None:
        self.num_trials += 1
        self.num_trial_tokens += num_tokens
        self.trial_time_us += time_us

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, those of the breakdown in a dictionary of their own."""
        made = {name: getattr(self, name) for name in self.__slots__}
        made["breakdown"] = {name: getattr(self.breakdown, name) for name in self.breakdown.__slots__}
        return made

    def as_json(self) -> str:
        """What `as_dict` gives, as JSON; made with every append, and in a fifth of the time that an encoder takes."""
        text = _AS_JSON % (*_PLAIN(self), *_BREAKDOWN(self.breakdown))
        return text.replace("None", "null") if self.num_reused_prompt_tokens is None else text

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Usage:
        """Reads what `as_dict` made; an older router's lacks counts, which stay 0, a newer one's has more."""
        known = _known(cls, fields)
        return cls(**{**known, "breakdown": TimeBreakdown(**_known(TimeBreakdown, fields.get("breakdown", {})))})

    def copy(self) -> Usage:
        made = Usage(*_USAGE(self))
        made.breakdown = TimeBreakdown(*_BREAKDOWN(self.breakdown))
        return made


# Each chunk is added with a copy: `copy.copy` takes four times as long as to read all fields in one call.
_USAGE = attrgetter(*Usage.__slots__)
_BREAKDOWN = attrgetter(*TimeBreakdown.__slots__)
# All are numbers, or None, which Python writes as JSON does but for that.
_PLAIN_NAMES = [name for name in Usage.__slots__ if name != "breakdown"]
_PLAIN = attrgetter(*_PLAIN_NAMES)
_BREAKDOWN_AS_JSON = ",".join(f'"{name}":%s' for name in TimeBreakdown.__slots__)
_AS_JSON = "{" + ",".join(f'"{name}":%s' for name in _PLAIN_NAMES) + ',"breakdown":{' + _BREAKDOWN_AS_JSON + "}}"


def _known(kind: type, fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name in kind.__dataclass_fields__}  # type: ignore[attr-defined]
