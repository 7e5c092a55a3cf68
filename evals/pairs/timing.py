"""What the calls of each candidate and of the LLM take: from a latency model, or timed here in a moment.

`rstitch latency` fits one SLM and one LLM on the wire. Every candidate is timed in this process, as is the LLM, and
scaled by what the LLM takes there beside what it takes here. Without a file the times of this process are all there
is, and what serving adds is left out. Models are timed in turn, round after round, so that a moment in which the
machine is slow is slow for all of them; how much the rounds differ says how much the times are worth.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from evals.algorithm.cached_model import CachedModel
from evals.latency import Decode, LatencyModel, ModelLatency, Prefill, Run, Service
from evals.pairs.reading import Loaded
from evals.pairs.walk import Walk

_CACHED = 128  # tokens before the timed calls
_INPUTS = (1, 2, 64)  # tokens of the timed calls: a decode step, a short prefill, a long one
_REPEATS = 15
_WARM_UP = 2
Cells: TypeAlias = tuple[float, ...]  # milliseconds of a call of each of these


@dataclass(frozen=True, slots=True)
class Timing:
    """The times of one pair.

    Attributes:
        latency: medians of the rounds.
        service: None where nothing is known of what serving adds.
        rounds: the same of each round by itself; none if the times are known.
    """

    latency: LatencyModel
    service: Service | None
    rounds: Sequence[LatencyModel] = ()

    def stitched_ms(self, num_prompt_tokens: int, walked: Walk) -> float:
        runs = [Run(model, length, discarded) for model, length, discarded in walked.runs]
        return self.latency.trajectory_ms(num_prompt_tokens, runs, self.service)

    def llm_ms(self, num_prompt_tokens: int, num_tokens: int) -> float:
        return self.latency.trajectory_ms(num_prompt_tokens, [Run("llm", num_tokens)], self.service)

    def by_round(self) -> list[Timing]:
        """A timing for each round; this one if there is none."""
        return [replace(self, latency=latency, rounds=()) for latency in self.rounds] or [self]


def timings(llm: Loaded, slms: Sequence[Loaded], file: Path | None) -> tuple[list[Timing], str]:
    """One per SLM, and in words where they come from. Raises: ValueError or OSError for a file that is none."""
    known = LatencyModel.load(file) if file is not None else None
    rounds = [
        [tuple(_call_ms(loaded, num) for num in _INPUTS) for loaded in (llm, *slms)] for _ in range(_REPEATS + _WARM_UP)
    ][_WARM_UP:]

    def pair(index: int, cells: list[Cells]) -> LatencyModel:
        here, slm = (_latency(cells[which]) for which in (0, index))
        if known is None:
            return LatencyModel(slm, here)
        return replace(known, slm=scaled(slm, float(known.llm.decode(_CACHED)) / float(here.decode(_CACHED))))

    medians = [tuple(map(statistics.median, zip(*seen, strict=True))) for seen in zip(*rounds, strict=True)]
    service = Service() if known is not None and known.serving else None
    made = [
        Timing(pair(index, medians), service, [pair(index, cells) for cells in rounds])
        for index in range(1, len(slms) + 1)
    ]
    if known is None:
        return made, "timed in this process, without what serving adds"
    scale = float(known.llm.decode(_CACHED)) / float(_latency(medians[0]).decode(_CACHED))
    return made, f"LLM and serving from {file}; SLMs timed in this process, times {scale:.2f} as for the LLM"


def scaled(latency: ModelLatency, factor: float) -> ModelLatency:
    """The same model where everything takes `factor` times as long."""
    p, d = latency.prefill_coefficients, latency.decode_coefficients
    prefill = Prefill(p.a * factor, p.b * factor, p.c * factor, p.d * factor)
    return replace(latency, prefill_coefficients=prefill, decode_coefficients=Decode(d.c * factor, d.d * factor))


def _latency(cells: Cells) -> ModelLatency:
    """Two points of the prefill formula and one of the decode formula: enough to tell models apart."""
    decode, few, many = cells
    per_token = max(0.0, (many - few) / (_INPUTS[2] - _INPUTS[1]))
    return ModelLatency(Prefill(0.0, 0.0, per_token, max(decode, few - per_token * _INPUTS[1])), Decode(0.0, decode))


def _call_ms(loaded: Loaded, num_inputs: int) -> float:
    ids = [index % loaded.vocab_size for index in range(_CACHED + num_inputs)]
    model = CachedModel(loaded.model)
    model.append(ids[:_CACHED])
    begin = time.perf_counter()
    model.append(ids[_CACHED:])[0].item()  # waits for a device
    return 1000 * (time.perf_counter() - begin)
