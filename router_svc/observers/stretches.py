"""What an answer looks like from its chunks: how long its segments are and why they began, and how sure its writers.

It is counted once an answer has ended, in arrays: nothing is recorded token by token. It knows neither wire nor store.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np

from router_svc.trajectory.types import Chunk, Model, SwitchReason, entropies_of
from rstitch.service import semconv
from rstitch.service.metrics import Metrics
from rstitch.service.tally import Tally, TallyRow

_LENGTHS = [2.0**power for power in range(13)]
# Dense where bounds on entropies are.
_ENTROPIES = [0.0001, 0.0003, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0]
# Switches whose value is the entropy of what the SLM proposed, and did not get to write.
_PROPOSED = (SwitchReason.ENTROPY_ABOVE,)


class StretchMetrics:
    """The histograms of segments and entropies of one router."""

    def __init__(self, metrics: Metrics) -> None:
        self._lengths, self._entropies = Tally(_LENGTHS), Tally(_ENTROPIES)
        self._by_segment: dict[tuple[str, str], TallyRow] = {}
        what = "Tokens of a segment, by its model and why it began."
        metrics.histogram_of(semconv.METRIC_SEGMENT_LENGTH, "{token}", what, _LENGTHS, self._lengths.read)
        what = "Entropies of kept tokens, and of the SLM's proposals that were over tau."
        metrics.histogram_of(semconv.METRIC_ENTROPY, "1", what, _ENTROPIES, self._entropies.read)

    def count(self, chunks: Sequence[Chunk]) -> None:
        """Counts the chunks of a whole answer, in order."""
        entropies = {model: entropies_of() for model in Model}
        segment, length = ("", ""), 0
        for chunk in chunks:
            model = chunk.source.model
            if chunk.reason or model.label != segment[0]:
                self._count_segment(segment, length)
                segment, length = (model.label, chunk.reason.name.lower() if chunk.reason else "start"), 0
                if chunk.reason in _PROPOSED:
                    entropies[model.other].append(chunk.switch_entropy)
            length += len(chunk.tokens)
            entropies[model].extend(chunk.entropies)
        self._count_segment(segment, length)
        for model, values in entropies.items():
            self._count_entropies(model, values)

    def _count_segment(self, segment: tuple[str, str], length: int) -> None:
        """Counts one, which may be empty: its model's first proposal was not kept."""
        model, reason = segment
        if not model:
            return
        row = self._by_segment.get(segment)
        if row is None:
            row = self._lengths.row({semconv.RSTITCH_MODEL: model, semconv.RSTITCH_REASON: reason})
            self._by_segment[segment] = row
        row.add(length)

    def _count_entropies(self, model: Model, values: array[float]) -> None:
        if not values:
            return
        found = np.frombuffer(values, np.float32).astype(np.float64)
        counts = np.bincount(np.searchsorted(_ENTROPIES, found), minlength=len(_ENTROPIES) + 1)
        self._entropies.row({semconv.RSTITCH_MODEL: model.label}).add_counted(counts.tolist(), float(found.sum()))
