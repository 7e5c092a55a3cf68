"""Steps of fixed shape, captured once at the start and replayed: on CUDA a replay costs one launch instead of a
thousand, which for a small model is most of a step.

A graph has room for a number of tokens: as many rows of one token each (decode), or rows of any lengths (extend). A
batch runs in the smallest graph that it fits; what is left over is filled with rows of one token on a page of their own
that nobody reads. All numbers of a batch travel in one copy, all results come back in one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model_worker.engine.forward.attention_tables import BlockTableAttention, Tables
from model_worker.engine.forward.batch import Batch
from model_worker.engine.forward.sampling import Choices, measure, unpack
from model_worker.engine.types import Limits

DECODE_SIZES = (1, 2, 4, 8, 16, 32, 64)
EXTEND_SIZES = (2, 4, 8, 16, 32, 64)

# Runs a function once so that it can be repeated without Python, on the same tensors; returns what repeats it.
Capture = Callable[[Callable[[], None]], Callable[[], None]]
# The model: ids and positions (int64 [1, tokens]) to logits and hidden states ([tokens, vocab_size or hidden_size]).
Forward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class GraphOutput:
    """What a replay computed, one row per token of the batch; the next replay overwrites the tensors."""

    logits: Tensor
    hidden: Tensor
    measured: Choices


class Graph:
    """A step of one shape, captured once: room for `num_tokens` tokens and as many rows, of `max_queries` at most."""

    def __init__(
        self,
        num_tokens: int,
        max_queries: int,
        attention: BlockTableAttention,
        forward: Forward,
        capture: Capture,
        limits: Limits,
        device: torch.device,
    ) -> None:
        self._num_tokens = num_tokens
        self._page_size = limits.page_size
        self._scratch_page = limits.num_pages  # the one after those of the sessions; nobody reads it
        width = attention.max_pages
        size = 5 * num_tokens + 1 + num_tokens * width
        pinned = device.type == "cuda"
        self._host = torch.zeros(size, dtype=torch.int32, pin_memory=pinned)
        self._device = torch.zeros(size, dtype=torch.int32, device=device)
        self._fill = [view.numpy() for view in _split(self._host, num_tokens, width)]
        ids, positions, slots, ends, lengths, pages = _split(self._device, num_tokens, width)
        self._results = torch.zeros(3, num_tokens, dtype=torch.float32, pin_memory=pinned)
        self._logits = self._hidden = self._packed = torch.empty(0)

        def body() -> None:
            # The slots become int64 once here, not once a layer.
            attention.use(Tables(slots.long(), ends, lengths, pages, max_queries, limits.context_length))
            self._logits, self._hidden = forward(ids.long()[None], positions.long()[None])
            self._packed = measure(self._logits)

        self._write(Batch([]))
        self._device.copy_(self._host)
        self._replay = capture(body)

    def run(self, batch: Batch) -> GraphOutput:
        """Replays the graph for a batch, which must fit."""
        self._write(batch)
        self._device.copy_(self._host, non_blocking=True)
        self._replay()
        self._results.copy_(self._packed, non_blocking=True)
        if self._device.is_cuda:
            torch.cuda.current_stream(self._device.device).synchronize()
        return GraphOutput(self._logits, self._hidden, unpack(self._results, self._logits.shape[-1]))

    def _write(self, batch: Batch) -> None:
        num, num_rows, room = batch.num_tokens, len(batch.rows), self._num_tokens
        ids, positions, slots, ends, lengths, pages = self._fill
        ids[:num], ids[num:] = batch.ids, 0
        positions[:num], positions[num:] = batch.positions, 0
        slots[:num], slots[num:] = batch.slots, self._scratch_page * self._page_size
        # Room for 8 tokens, a batch of two rows with 3 and 1 tokens:
        #
        #   tokens   r0 r0 r0 r1  x  x  x  x      x: fillers on the scratch page, position 0, one key
        #   ends     0  3  4  5  6  7  8 | 8 8    as many rows as tokens: after r0, r1 and four fillers two empty ones
        known = np.cumsum([0, *(row.num_tokens for row in batch.rows)] + [1] * (room - num))
        ends[: len(known)], ends[len(known) :] = known, room
        lengths[:num_rows], lengths[num_rows:] = [row.start + row.num_tokens for row in batch.rows], 1
        for index, row in enumerate(batch.rows):
            held = row.run.session.pages
            pages[index, : len(held)] = held
        pages[num_rows:, 0] = self._scratch_page


def _split(buffer: Tensor, num_tokens: int, width: int) -> tuple[Tensor, ...]:
    """Cuts one buffer into views: ids, positions, slots, ends, lengths, pages."""
    n = num_tokens
    ids, positions, slots, lengths, ends, pages = buffer.split([n, n, n, n, n + 1, n * width])
    return ids, positions, slots, ends, lengths, pages.view(n, width)


class Graphs:
    """All captured shapes; a batch runs in the smallest that it fits."""

    def __init__(self, make: Callable[[int, int], Graph], on_progress: OnProgress) -> None:
        # The largest first: the smaller ones then fit into its memory.
        shapes = sorted([(size, 1) for size in DECODE_SIZES] + [(size, size) for size in EXTEND_SIZES], reverse=True)
        self._graphs: dict[tuple[int, bool], Graph] = {}
        for index, (size, max_queries) in enumerate(shapes):
            self._graphs[size, max_queries == 1] = make(size, max_queries)
            on_progress(index + 1, len(shapes))

    def run(self, batch: Batch) -> GraphOutput | None:
        """Runs a batch; None if it fits no graph."""
        sizes = DECODE_SIZES if batch.is_decode else EXTEND_SIZES
        size = next((size for size in sizes if size >= batch.num_tokens), None)
        if size is None:
            return None
        return self._graphs[size, batch.is_decode].run(batch)


def repeat(body: Callable[[], None]) -> Callable[[], None]:
    """Stands in for a capture where there is none: the function itself, run again."""
    return body


def cuda_capture(pool: Any) -> Capture:
    """Captures in CUDA graphs that share the memory of `pool` (torch.cuda.graph_pool_handle())."""

    def capture(body: Callable[[], None]) -> Callable[[], None]:
        # What is allocated, tuned or compiled at a first call must not be captured.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                body()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            body()
        return graph.replay

    return capture
