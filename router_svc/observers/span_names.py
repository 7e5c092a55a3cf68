"""What spans of an answer are called: by what happens, and why. It knows no span.

Viewers show names without a click, and attributes after one; but who counts spans by name (search lists, metrics made
of spans) wants few names. So there are two styles: `bounded` names have the reason and an entropy to one digit of 1, 2
and 5, some thirty names in all; `exact` ones have the value, the bound and the number of tokens, for people who look at
single answers. The attribute `rstitch.segment.why` is exact in both.
"""

from __future__ import annotations

from router_svc.trajectory.types import Model, SwitchReason

RUN_AHEAD = "SLM runs ahead"
TRIAL = "early-exit trial"
GROUP = "segments"

_STEPS = tuple(digit * 10.0**power for power in range(-3, 0) for digit in (1, 2, 5))
_SIGNALS = {
    SwitchReason.ENTROPY_ABOVE: ("entropy", ">"),
    SwitchReason.ENTROPY_BELOW: ("entropy", "≤"),
    SwitchReason.UNCERTAINTY_ABOVE: ("uncertainty", ">"),
    SwitchReason.UNCERTAINTY_BELOW: ("uncertainty", "≤"),
}
_REASONS = {
    SwitchReason.NONE: "",
    SwitchReason.HEAD: "the head said so",
    SwitchReason.COIN: "the coin",
    SwitchReason.VERIFICATION: "after the verified draft",
    SwitchReason.DRAFT: "the next draft",
    SwitchReason.BUDGET: "the budget is spent",
}


def segment_name(model: Model, reason: SwitchReason, value: float) -> str:
    """Names a segment of `model`, which began for `reason` by `value`, in the bounded style."""
    signal = _SIGNALS.get(reason)
    if signal is None:
        why = _REASONS[reason]
    else:
        word, sign = signal
        # A value below the bound is as good as any other that is.
        why = f"{word} ~{_rounded(value)} > tau" if sign == ">" else f"{word} ≤ tau"
    return _named(f"{model.name} writes", why)


def exact_segment_name(model: Model, reason: SwitchReason, value: float, tau: float | None, num_tokens: int) -> str:
    """Names it in the exact style, once it is over."""
    return _named(f"{model.name} writes {num_tokens}", why_of(reason, value, tau))


def why_of(reason: SwitchReason, value: float, tau: float | None) -> str:
    """Says why a segment began: `entropy 0.314 > 0.02`; "" of an answer's first."""
    signal = _SIGNALS.get(reason)
    if signal is None:
        return f"{_REASONS[reason]}, entropy {value:.3g}" if reason is SwitchReason.HEAD else _REASONS[reason]
    return f"{signal[0]} {value:.3g} {signal[1]} {'tau' if tau is None else f'{tau:.3g}'}"


def run_ahead_name(num_kept: int | None) -> str:
    """Names what the SLM wrote ahead, `num_kept` tokens of which were kept; None: in the bounded style."""
    return RUN_AHEAD if num_kept is None else f"{RUN_AHEAD}: {num_kept} kept"


def group_name(first: int) -> str:
    """Names a group of segments in the exact style; the first of an answer is number 1."""
    return f"{GROUP} from {first}"


def _named(what: str, why: str) -> str:
    return f"{what}: {why}" if why else what


def _rounded(value: float) -> str:
    """Rounds down to 1, 2 or 5 of a power of ten: twelve values at most."""
    return f"{max((step for step in _STEPS if step <= value), default=0.0):g}"
