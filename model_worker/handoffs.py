"""When a run hands over, as messages say it: the rule, its head's terms, and the consultations that go back."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable

from model_worker.engine.types import Handoff, Signal
from model_worker.engine.types import Verdict as EngineVerdict
from model_worker.heads import HeadTable
from rstitch.errors import invalid
from rstitch.limits import MAX_WINDOW
from rstitch.service.consulting import Consultant, HeadTerms, Verdict, in_half_precision
from rstitch.service.head_features import NUM_RECENT
from rstitch.v1 import common_pb2, worker_pb2

# The contract names signals as the engine does.
_SIGNALS = {common_pb2.Signal.Value(f"SIGNAL_{signal.name}"): signal for signal in Signal}
_SIGNALS[common_pb2.SIGNAL_UNSPECIFIED] = Signal.ENTROPY


def handoff_of(message: worker_pb2.Handoff, heads: HeadTable) -> Handoff:
    """Reads a hand-off; one with a head is for one run.

    Raises RstitchError: INVALID_ARGUMENT with the field, FAILED_PRECONDITION for a missing head.
    """
    rule = message.WhichOneof("rule")
    if rule is None:
        raise invalid("handoff.rule", "a hand-off needs a rule.", "Set above or below, or leave handoff unset.")
    bound = float(getattr(message, rule))
    if math.isnan(bound):
        raise invalid(f"handoff.{rule}", "NaN is no bound.", "Send a bound of the signal; signals are in [0, 1].")
    signal = _SIGNALS.get(message.signal)
    if signal is None:
        raise invalid("handoff.signal", f"{message.signal} is no signal.", "Send one of the enum Signal.")
    _check_window(message, signal)
    if message.head and rule != "above":
        raise invalid("handoff.head", "a head is asked under above only.", "Set above, or leave head unset.")
    if message.HasField("terms") and not message.head:
        raise invalid("handoff.terms", "there is no head to be asked on them.", "Name a head, or leave terms unset.")
    terms = terms_of(message.terms)
    return Handoff(
        above=bound if rule == "above" else None,
        below=bound if rule == "below" else None,
        hidden_state=message.hidden_state,
        signal=signal,
        window=message.window,
        recent_entropies=tuple(message.recent_entropies),
        consultant=Consultant(heads.get(message.head), terms) if message.head else None,
    )


def _check_window(message: worker_pb2.Handoff, signal: Signal) -> None:
    entropies = message.recent_entropies
    if signal is not Signal.ENTROPY_WINDOW:
        for field in ("window", "recent_entropies"):
            if getattr(message, field):
                raise invalid(f"handoff.{field}", "only SIGNAL_ENTROPY_WINDOW has a window.", "Leave it unset.")
        return
    if not 1 <= message.window <= MAX_WINDOW:
        raise invalid("handoff.window", f"{message.window} is not in [1, {MAX_WINDOW}].", "Say over how many tokens.")
    if len(entropies) >= message.window:
        raise invalid(
            "handoff.recent_entropies",
            f"a window of {message.window} looks at {message.window - 1} tokens before this one, not {len(entropies)}.",
            "Send the last ones.",
        )
    _check_entropies("handoff.recent_entropies", entropies)


def terms_of(message: worker_pb2.HeadTerms) -> HeadTerms:
    """Reads a head's terms; those of an unset message are none. Raises RstitchError INVALID_ARGUMENT with the field."""
    price, entropies = message.price or 1.0, message.recent_entropies
    if not 0 < price < math.inf:  # NaN fails, too
        raise invalid("handoff.terms.price", f"{price} is no price.", "Send a finite number over 0, or 0 for 1.")
    if len(entropies) > NUM_RECENT:
        raise invalid(
            "handoff.terms.recent_entropies",
            f"a head looks at {NUM_RECENT} tokens before the run at most, not {len(entropies)}.",
            "Send the last ones.",
        )
    _check_entropies("handoff.terms.recent_entropies", entropies)
    return HeadTerms(
        position=message.position,
        explore_seed=message.explore_seed if message.HasField("explore_seed") else None,
        price=price,
        report=message.report,
        recent_entropies=tuple(entropies),
        segment_length=message.segment_length,
        num_llm_tokens=message.num_llm_tokens,
        llm_tokens_left=message.llm_tokens_left if message.HasField("llm_tokens_left") else None,
        max_reported=message.max_reported,
    )


def num_to_report(message: worker_pb2.HeadTerms) -> int:
    """Says how many of a run's consultations its caller wants to be told, at most."""
    return (message.max_reported or sys.maxsize) if message.report else 0


def consultation(token: int, verdict: EngineVerdict) -> common_pb2.Consultation:
    """Says what the SLM's head was asked about a token that the SLM would write, and what it said."""
    assert isinstance(verdict, Verdict), "whom `handoff_of` had asked"
    return common_pb2.Consultation(
        position=verdict.position,
        hidden_state=in_half_precision(verdict.hidden_state),
        entropy=verdict.entropy,
        proposal=token,
        features=verdict.features,
        probability=verdict.probability,
        to_llm=verdict.to_llm,
        context_length=verdict.context_length,
    )


def _check_entropies(field: str, entropies: Iterable[float]) -> None:
    if not all(0 <= entropy <= 1 for entropy in entropies):  # NaN fails, too
        raise invalid(field, "an entropy is in [0, 1].", "Send them as they were returned.")
