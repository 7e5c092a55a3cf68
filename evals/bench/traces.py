"""Routing traces: who wrote how many tokens in turn, recorded from real answers or drawn. They know no tokens."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Author = Literal["slm", "llm"]


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of tokens by one model. An SLM's may be empty: its first proposal was discarded."""

    model: Author
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Trace:
    """One answer's segments, the SLM's and the LLM's in turn, the SLM's first. Raises ValueError if they are not."""

    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        for index, segment in enumerate(self.segments):
            if segment.model != ("slm", "llm")[index % 2]:
                raise ValueError(f"segment {index} should be the other model's: they take turns, the SLM first")
            if segment.num_tokens < (segment.model == "llm"):
                raise ValueError(f"segment {index} has {segment.num_tokens} tokens: only an SLM's may be empty")
        if self.num_tokens == 0:
            raise ValueError("the trace has no tokens")

    @property
    def num_tokens(self) -> int:
        return sum(segment.num_tokens for segment in self.segments)

    @property
    def num_llm_tokens(self) -> int:
        return sum(segment.num_tokens for segment in self.segments if segment.model == "llm")

    @property
    def num_switches(self) -> int:
        return len(self.segments) - 1

    def left(self, model: Author) -> list[int]:
        """Says for each offset how many tokens `model` writes from there on before the other one writes, its own rule
        kept. Where the trace has the other model writing, the SLM is unsure at once and the LLM sure after a token.
        """
        other = 0 if model == "slm" else 1
        return [
            left if segment.model == model else other
            for segment in self.segments
            for left in range(segment.num_tokens, 0, -1)
        ]


def trace_of(sources: Iterable[tuple[Author, int]]) -> Trace:
    """From (model, number of tokens) in order; neighbours of one model are one segment."""
    segments: list[Segment] = []
    for model, num_tokens in sources:
        if segments and segments[-1].model == model:
            segments[-1] = Segment(model, segments[-1].num_tokens + num_tokens)
        else:
            segments.append(Segment(model, num_tokens))
    if segments and segments[0].model == "llm":
        segments.insert(0, Segment("slm", 0))
    return Trace(tuple(segments))


def synthetic(llm_share: float, segment_length: float, num_tokens: int, seed: int) -> Trace:
    """A trace with exactly round(llm_share * num_tokens) LLM tokens in segments of that mean length, cut at random.

    Raises ValueError if there is no such trace.
    """
    if not 0 < llm_share < 1 or segment_length < 1:
        raise ValueError("the LLM's share is between 0 and 1, its segments are at least a token long")
    llm_tokens = max(1, round(llm_share * num_tokens))
    slm_tokens = num_tokens - llm_tokens
    num_segments = max(1, round(llm_tokens / segment_length))
    if slm_tokens < num_segments + 1:
        raise ValueError(f"{slm_tokens} SLM tokens do not part {num_segments} LLM segments: a lower share, longer ones")
    rng = random.Random(seed)
    llm = _cut(llm_tokens, num_segments, rng)
    slm = _cut(slm_tokens, num_segments + 1, rng)
    turns: list[tuple[Author, int]] = [("slm", slm[0])]
    for of_llm, of_slm in zip(llm, slm[1:], strict=True):
        turns += [("llm", of_llm), ("slm", of_slm)]
    return trace_of(turns)


def _cut(total: int, num_parts: int, rng: random.Random) -> list[int]:
    """Parts of at least 1, every way of cutting equally likely: lengths that are nearly geometric."""
    cuts = [0, *sorted(rng.sample(range(1, total), num_parts - 1)), total]
    return [end - begin for begin, end in itertools.pairwise(cuts)]


def save(traces: Sequence[Trace], path: Path) -> None:
    """One line per trace: [["slm", 12], ["llm", 1], ...]."""
    lines = (json.dumps([[segment.model, segment.num_tokens] for segment in trace.segments]) for trace in traces)
    path.write_text("".join(f"{line}\n" for line in lines))


def read(path: Path) -> list[Trace]:
    """Reads what `save` wrote. Raises ValueError, naming the line."""
    traces = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            traces.append(trace_of((model, num_tokens) for model, num_tokens in json.loads(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    if not traces:
        raise ValueError(f"{path}: no trace in it")
    return traces
