"""What the calls of each candidate and of the LLM take: from a latency model, or timed here in a moment.

`rstitch profile` fits one SLM and one LLM on the wire. Every candidate is timed in this process, as is the LLM, and
scaled by what the LLM takes there beside what it takes here. Without a file the times of this process are all there
is, and what serving adds is left out.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evals.algorithm.cached_model import CachedModel
from evals.latency import Decode, LatencyModel, ModelLatency, Prefill, Run, Service
from evals.pairs.reading import Loaded
from evals.pairs.walk import Walk

_CACHED = 128  # tokens before the timed calls
_PREFILLS = (2, 64)
_REPEATS = 15


@dataclass(frozen=True, slots=True)
class Timing:
    """Of one pair; `service` is None where nothing is known of what serving adds."""

    latency: LatencyModel
    service: Service | None

    def stitched_ms(self, num_prompt_tokens: int, walked: Walk) -> float:
        """A walk's answer."""
        runs = [Run(model, length, discarded) for model, length, discarded in walked.runs]
        return self.latency.trajectory_ms(num_prompt_tokens, runs, self.service)

    def llm_ms(self, num_prompt_tokens: int, num_tokens: int) -> float:
        """The LLM's own answer."""
        return self.latency.trajectory_ms(num_prompt_tokens, [Run("llm", num_tokens)], self.service)


def timings(llm: Loaded, slms: Sequence[Loaded], file: Path | None) -> tuple[list[Timing], str]:
    """One per SLM, and in words where they come from. Raises: ValueError or OSError for a file that is none."""
    here = timed(llm)
    if file is None:
        words = "timed in this process, without what serving adds"
        return [Timing(LatencyModel(timed(slm), here), None) for slm in slms], words
    known = LatencyModel.load(file)
    scale = float(known.llm.decode(_CACHED)) / float(here.decode(_CACHED))
    made = [Timing(replace(known, slm=scaled(timed(slm), scale)), Service()) for slm in slms]
    words = f"LLM and serving from {file}; SLMs timed in this process, times {scale:.2f} as for the LLM"
    return made if known.serving else [replace(one, service=None) for one in made], words


def scaled(latency: ModelLatency, factor: float) -> ModelLatency:
    """The same model where everything takes `factor` times as long."""
    p, d = latency.prefill_coefficients, latency.decode_coefficients
    prefill = Prefill(p.a * factor, p.b * factor, p.c * factor, p.d * factor)
    return replace(latency, prefill_coefficients=prefill, decode_coefficients=Decode(d.c * factor, d.d * factor))


def timed(loaded: Loaded) -> ModelLatency:
    """Two points of the prefill formula and one of the decode formula, medians: enough to tell models apart."""
    few, many = (_median_ms(loaded, num) for num in _PREFILLS)
    per_token = max(0.0, (many - few) / (_PREFILLS[1] - _PREFILLS[0]))
    decode = _median_ms(loaded, 1)
    return ModelLatency(Prefill(0.0, 0.0, per_token, max(decode, few - per_token * _PREFILLS[0])), Decode(0.0, decode))


def _median_ms(loaded: Loaded, num_inputs: int) -> float:
    ids = [index % loaded.vocab_size for index in range(_CACHED + num_inputs)]
    taken = []
    for _ in range(_REPEATS + 2):
        model = CachedModel(loaded.model)
        model.append(ids[:_CACHED])
        begin = time.perf_counter()
        model.append(ids[_CACHED:])[0].item()  # waits for a device
        taken.append(1000 * (time.perf_counter() - begin))
    return statistics.median(taken[2:])
