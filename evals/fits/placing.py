"""Both models of a pair on one card or on two: what is left beside the weights, and how many sessions that holds.

Rooms are those that workers take (forward/memory.py); nothing is measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evals.fits.sizing import SESSION_TOKENS, Sized
from model_worker.engine.forward.memory import room_beside, room_for_cache


@dataclass(frozen=True, slots=True)
class Placed:
    """A pair with its LLM in one precision.

    Attributes:
        precision: of the LLM's weights; the SLM's are `slm_precision`.
        slm_bytes: of the SLM's weights, and so on.
        left_bytes: for KV, of the card that has least; at most 0 where it does not fit.
        tokens: that both caches hold, in sessions of 8,192; 0 where nothing is left.
        sessions: of 8,192 tokens.
    """

    slm: str
    llm: str
    gpus: tuple[float, ...]
    slm_precision: str
    precision: str
    slm_bytes: int
    llm_bytes: int
    left_bytes: int
    tokens: int

    @property
    def sessions(self) -> int:
        return self.tokens // SESSION_TOKENS


def placed(slm: Sized, llm: Sized, gpus: Sequence[float], slm_precision: str = "") -> Iterator[Placed]:
    """Yields the pair with its LLM in each precision, on cards of so many GB (10^9 bytes), the SLM on the first.

    Without `slm_precision` the SLM is as its folder comes where that is in few bits, else in bf16.
    """
    own = slm_precision or next((kind for kind in slm.weights if kind not in ("bf16", "int8", "int4")), "bf16")
    totals = [round(gpu * 1e9) for gpu in gpus]
    for precision, llm_bytes in llm.weights.items():
        slm_bytes = slm.weights[own]
        parts = [slm.session_bytes(), llm.session_bytes()]
        if len(totals) == 1:
            left = room_beside(totals[0], slm_bytes, llm_bytes)
            tokens = max(0, left) * SESSION_TOKENS // sum(parts)
        else:
            lefts = [
                room_for_cache(total - weights) if total > weights else total - weights
                for total, weights in zip(totals, (slm_bytes, llm_bytes), strict=True)
            ]
            left = min(lefts)
            tokens = min(max(0, room) * SESSION_TOKENS // part for room, part in zip(lefts, parts, strict=True))
        yield Placed(slm.name, llm.name, tuple(gpus), own, precision, slm_bytes, llm_bytes, left, tokens)
