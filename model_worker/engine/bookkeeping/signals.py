"""Signals of uncertainty: how unsure a model is of its next token, a number in [0, 1]. No torch.

Each is of the model's own distribution (temperature 1, before top-k and top-p). Entropy and confidence are those of
R-Stitch (arXiv 2507.17307) and of its first version; margin is the difference of the two largest probabilities; the
entropy over a window follows that paper's finding that the neighbourhood of a harmful token is uncertain.

What is compared with a bound is rounded to float32 before, as the wire and the store carry it (a window's entropies
are, not their mean): who goes on from what is stored decides as the run did.
"""

from __future__ import annotations

import math
from collections import deque
from struct import Struct

from model_worker.engine.types import Handoff, Signal

_FLOAT32 = Struct("f")


class SignalMeter:
    """Computes a run's signal for one token after another."""

    def __init__(self, handoff: Handoff) -> None:
        self._signal = handoff.signal
        self._recent = deque(handoff.recent_entropies, maxlen=max(handoff.window - 1, 0))

    def read(self, entropy: float, logprob: float, margin: float) -> float:
        """Returns the next token's signal, of its float32 entropy; only MARGIN uses p1 - p2, the `margin`."""
        if self._signal is Signal.CONFIDENCE:
            return rounded(max(0.0, 1.0 - math.exp(logprob)))
        if self._signal is Signal.MARGIN:
            return rounded(1.0 - margin)
        if self._signal is Signal.ENTROPY_WINDOW:
            window = (*self._recent, entropy)  # fsum is exact, so the order does not matter
            return math.fsum(window) / len(window)
        return entropy

    def keep(self, entropy: float) -> None:
        """Makes the entropy of a kept token part of the windows that follow."""
        self._recent.append(entropy)


def rounded(value: float) -> float:
    """Rounds to the nearest float32."""
    nearest: float = _FLOAT32.unpack(_FLOAT32.pack(value))[0]
    return nearest
