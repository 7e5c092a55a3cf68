"""What a switch, a token and an answer take: `bench replay`, `bench switch` and `bench overhead` all ask this."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Literal

import numpy as np
from scipy.optimize import least_squares

from evals.asking.record import Record

# Milliseconds beyond which a residual counts less and less: the machine did something else meanwhile.
_NOISE_MS = 0.1
Clock = Literal["outside_ms", "client_ms"]


def spent(records: Sequence[Record]) -> dict[str, list[float]]:
    """Milliseconds of each answer outside the forwards, and in the places that the router tells apart."""
    told = ("scheduling", "waiting", "transport", "store", "routing")
    places = {name: [record.places_us[name] / 1000 for record in records] for name in told}
    return {"outside": [record.outside_ms for record in records], **places}


def fit(spent_ms: Sequence[float], *counts: Sequence[float]) -> list[float]:
    """Milliseconds per unit of each count, such as tokens and switches, and of each answer, which comes last.

    Robust least squares: an answer during which the machine was busy counts little.
    """
    design = np.column_stack([*counts, np.ones(len(spent_ms))])
    start = np.linalg.lstsq(design, np.asarray(spent_ms), rcond=None)[0]
    found = least_squares(lambda x: design @ x - spent_ms, start, loss="soft_l1", f_scale=_NOISE_MS)
    return [float(value) for value in found.x]


def switch_ms(answer: Record, slm_token_ms: float, llm_token_ms: float, clock: Clock = "outside_ms") -> float:
    """What a switch adds to the tokens of an answer, whose own times are known of the models alone."""
    tokens_ms = answer.count("slm_tokens") * slm_token_ms + answer.count("llm_tokens") * llm_token_ms
    return float((getattr(answer, clock) - tokens_ms) / answer.count("switches"))


def outside_ms(alone: Sequence[Record]) -> dict[str, float]:
    """Milliseconds outside the forwards at one session: per token of each model alone, and what a switch adds.

    What an answer costs once is in its tokens. Empty where nothing switched.
    """
    switched = [record for record in alone if record.count("switches")]
    if not switched:
        return {}
    slm, llm = (
        median(record.outside_ms / record.num_tokens for record in alone if record.system == name)
        for name in ("slm_only", "llm_only")
    )
    switch = median(switch_ms(record, slm, llm) for record in switched)
    return {"slm_token_ms": slm, "llm_token_ms": llm, "switch_ms": switch}
