"""What an answer looks like from its chunks: how long its segments are and why they began, and how sure its writers.

Chunks are counted as they come, into arrays of few numbers, so that the end of a long answer takes no longer than that
of a short one. It knows neither wire nor store.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from router_svc.trajectory.types import Chunk, Model, SwitchReason, entropies_of
from rstitch.service import semconv
from rstitch.service.metrics import Metrics
from rstitch.service.tally import Tally, TallyRow

_LENGTHS = [2.0**power for power in range(13)]
# Dense where bounds on entropies are.
_ENTROPIES = [0.0001, 0.0003, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0]
# So many values are put into buckets together.
_AT_ONCE = 1024
# Switches whose value is the entropy of what the SLM proposed, and did not get to write.
_PROPOSED = (SwitchReason.ENTROPY_ABOVE,)


class _Buckets:
    """How many of some values lie in each bucket, and their sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = np.zeros(len(bounds) + 1, np.int64)
        self._total = 0.0
        self._waiting = entropies_of()  # float32, which holds every length of a segment, too

    @property
    def any(self) -> bool:
        return bool(self._waiting) or bool(self._counts.any())

    def extend(self, values: Sequence[float]) -> None:
        self._waiting.extend(values)
        if len(self._waiting) >= _AT_ONCE:
            self._fold()

    def put_into(self, row: TallyRow) -> None:
        self._fold()
        row.add_counted(self._counts.tolist(), self._total)

    def _fold(self) -> None:
        found = np.frombuffer(self._waiting, np.float32).astype(np.float64)
        self._counts += np.bincount(np.searchsorted(self._bounds, found), minlength=len(self._counts))
        self._total += float(found.sum())
        self._waiting = entropies_of()


class Stretches:
    """The segments and entropies of one answer, as far as it is written."""

    def __init__(self) -> None:
        self.segments: dict[tuple[str, str], _Buckets] = {}  # lengths by model and why it began
        self.entropies = {model: _Buckets(_ENTROPIES) for model in Model}
        self._segment, self._length = ("", ""), 0  # of the open one; before the first there is none

    def add(self, chunks: Sequence[Chunk]) -> None:
        """Counts chunks of the answer that come next in it."""
        for chunk in chunks:
            model = chunk.source.model
            if chunk.reason or model.label != self._segment[0]:
                self.end()
                self._segment = (model.label, chunk.reason.name.lower() if chunk.reason else "start")
                if chunk.reason in _PROPOSED:
                    self.entropies[model.other].extend((chunk.switch_entropy,))
            self._length += len(chunk.tokens)
            self.entropies[model].extend(chunk.entropies)

    def end(self) -> None:
        """Ends the open segment, which may be empty: its model's first proposal was not kept."""
        if self._segment[0]:
            if self._segment not in self.segments:
                self.segments[self._segment] = _Buckets(_LENGTHS)
            self.segments[self._segment].extend((self._length,))
        self._segment, self._length = ("", ""), 0


class StretchMetrics:
    """The histograms of segments and entropies of one router."""

    def __init__(self, metrics: Metrics) -> None:
        self._lengths, self._entropies = Tally(_LENGTHS), Tally(_ENTROPIES)
        what = "Tokens of a segment, by its model and why it began."
        metrics.histogram_of(semconv.METRIC_SEGMENT_LENGTH, "{token}", what, _LENGTHS, self._lengths.read)
        what = "Entropies of kept tokens, and of the SLM's proposals that were over tau."
        metrics.histogram_of(semconv.METRIC_ENTROPY, "1", what, _ENTROPIES, self._entropies.read)

    def count(self, stretches: Stretches) -> None:
        """Counts what a whole answer came to."""
        stretches.end()
        for (model, reason), lengths in stretches.segments.items():
            lengths.put_into(self._lengths.row({semconv.RSTITCH_MODEL: model, semconv.RSTITCH_REASON: reason}))
        for writer, entropies in stretches.entropies.items():
            if entropies.any:
                entropies.put_into(self._entropies.row({semconv.RSTITCH_MODEL: writer.label}))
