"""Steps of fixed shape, captured once at the start and replayed: on CUDA a replay costs one launch instead of a
thousand, which for a small model is most of a step.

A batch runs in the cheapest shape that it fits (graph_shapes.py); what is left over is filled with tokens on a page of
their own that nobody reads. All numbers of a batch travel in one copy, all results come back in one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.attention_tables import BlockTableAttention, Tables
from model_worker.engine.forward.batch import Batch
from model_worker.engine.forward.capture import Capture
from model_worker.engine.forward.graph_shapes import Shape, shapes_for, trial_batch
from model_worker.engine.forward.model import Model
from model_worker.engine.forward.sampling import Choices, measure, unpack
from model_worker.engine.forward.transfer import Later
from model_worker.engine.types import Limits

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class GraphOutput:
    """What a replay computes; the next one overwrites the tensors, and what `measured` reads."""

    logits: Tensor
    hidden: Tensor
    measured: Later[Choices]
    index: Sequence[int]  # which of the rows of these three each distribution asked for has


@dataclass(slots=True)
class _Outputs:
    """Where a graph leaves what it computes, the same tensors at every replay. Without a head only `hidden` is one."""

    logits: Tensor
    hidden: Tensor
    measured: Tensor

    @property
    def tensors(self) -> list[Tensor]:
        return [tensor for tensor in (self.logits, self.hidden, self.measured) if tensor.numel()]


class Graph:
    """A step of one shape. Raises UnsupportedModel when made if, once captured, it does not repeat its function."""

    def __init__(
        self,
        shape: Shape,
        attention: BlockTableAttention,
        model: Model,
        capture: Capture,
        limits: Limits,
        device: torch.device,
    ) -> None:
        self._shape = shape
        self._limits = limits
        num_rows, width = shape.num_table_rows(limits), attention.max_pages
        parts = [*[shape.num_tokens] * 3, num_rows + 1, num_rows, shape.num_asked if shape.gathers else 0]
        parts.append(num_rows * width)
        self._attention = attention
        if attention.has_mapped:  # slots and pages once more, as the layers that see a window only have them
            parts += [shape.num_tokens, num_rows * width]
        pinned = device.type == "cuda"
        self._host = torch.zeros(sum(parts), dtype=torch.int32, pin_memory=pinned)
        self._device = torch.zeros(sum(parts), dtype=torch.int32, device=device)
        self._fill = [part.numpy() for part in self._host.split(parts)]
        ids, positions, slots, ends, lengths, wanted, pages, *mapped = self._device.split(parts)
        self._fill[6], pages = self._fill[6].reshape(num_rows, width), pages.view(num_rows, width)
        self._results = torch.zeros(3, shape.num_asked, dtype=torch.float32, pin_memory=pinned)
        empty = torch.empty(0, device=device)
        outputs = self._outputs = _Outputs(empty, empty, empty)

        def body() -> None:  # holds nothing that holds it: graphs, their memory and the model go as soon as an engine
            # The slots become int64 once here, not once a layer.
            tables = Tables(slots.long(), ends, lengths, pages, shape.max_queries, limits.context_length)
            attention.use(
                tables,
                replace(tables, slots=mapped[0].long(), pages=mapped[1].view(num_rows, width)) if mapped else None,
            )
            if shape.num_asked == 0:
                outputs.hidden = model.hidden(ids.long()[None], positions.long()[None])
                return
            keep = wanted.long() if shape.gathers else 0
            outputs.logits, outputs.hidden = model.logits(ids.long()[None], positions.long()[None], keep)
            outputs.measured = measure(outputs.logits)

        self._replay = self._verified(body, capture)

    def launch(self, batch: Batch) -> GraphOutput:
        """Replays the graph for a batch, which must fit. The one before must be over: its numbers lie where these go.

        The device may still compute when this returns.
        """
        index = self._write(batch)
        self._device.copy_(self._host, non_blocking=True)
        self._replay()
        outputs = self._outputs
        if self._shape.num_asked:
            self._results.copy_(outputs.measured, non_blocking=True)
        return GraphOutput(outputs.logits, outputs.hidden, self._measured, index)

    def _measured(self) -> Choices:
        return unpack(self._results, self._limits.vocab_size) if self._shape.num_asked else Choices([], [], [])

    def _verified(self, body: Callable[[], None], capture: Capture) -> Callable[[], None]:
        """Captures `body`, and replays it once beside it on the same batch: bit for bit the same must come out."""
        batch = trial_batch(self._shape, self._limits)
        index = self._write(batch)
        if self._shape.num_asked == 0:
            index = range(batch.num_tokens)
        self._device.copy_(self._host)
        for _ in range(2):  # what is made at a first call may change what it gives: the second one counts
            capture.run(body)
        expected = self._seen(index)
        replay = capture.record(body)
        for tensor in self._outputs.tensors:
            tensor.fill_(float("nan"))  # what is found there afterwards is the replay's
        replay()
        for ours, own in zip(self._seen(index), expected, strict=True):
            if not torch.equal(ours.nan_to_num(nan=0.5), own.nan_to_num(nan=0.5)):
                difference = float((ours.double() - own.double()).abs().max())
                raise UnsupportedModel(
                    f"the captured step of {self._shape.num_tokens} tokens and {self._shape.num_rows} rows "
                    f"does not repeat its own function: a value differs by {difference:.1e}"
                )
        return replay

    def _seen(self, index: Sequence[int]) -> list[Tensor]:
        """Returns a copy of what was computed for a batch; what fillers compute is nobody's business."""
        rows = torch.tensor(index, device=self._device.device)
        *by_row, last = self._outputs.tensors  # only where there is a head is the last one by column
        return [*(tensor[rows] for tensor in by_row), last[:, rows] if self._shape.num_asked else last[rows]]

    def _write(self, batch: Batch) -> Sequence[int]:
        """Fills the buffer that goes to the device; returns which of the results are those that the batch asks for."""
        num, num_rows, room = batch.num_tokens, len(batch.rows), self._shape.num_tokens
        scratch, page_size = self._limits.num_pages, self._limits.page_size  # the page after those of the sessions
        ids, positions, slots, ends, lengths, wanted, pages, *mapped = self._fill
        # Room for 8 tokens and 4 rows, pages of 2 tokens, a batch of two rows with 3 and 1 tokens:
        #
        #   tokens   r0 r0 r0 r1  x  x  x  x      x: fillers, rows of their own of up to a page, all on the scratch page
        #   ends     0  3  4  6  8 | 8 8 8 8      4 rows and as many as fillers could need: here the last four are empty
        #
        # Every filler of the same place within its row is the same token after the same tokens, so it does not matter
        # which of them writes its slot last.
        left, length = room - num, self._shape.filler_length(self._limits)
        fillers = [length] * (left // length) + [left % length] * (left % length > 0)
        ids[:num], ids[num:] = batch.ids, 0
        positions[:num], positions[num:] = batch.positions, 0
        slots[:num], slots[num:] = batch.slots, scratch * page_size + np.arange(left) % length
        known = np.cumsum([0, *(row.num_tokens for row in batch.rows), *fillers])
        ends[: len(known)], ends[len(known) :] = known, room
        lengths[:num_rows] = [row.start + row.num_tokens for row in batch.rows]
        lengths[num_rows : num_rows + len(fillers)], lengths[num_rows + len(fillers) :] = fillers, 1
        for index, row in enumerate(batch.rows):
            held = row.run.session.pages
            pages[index, : len(held)] = held
        pages[num_rows:, 0] = scratch
        if mapped:
            mapped[0][:] = self._attention.mapped_slots(slots)
            mapped[1][:] = self._attention.mapped_pages(pages).ravel()
        if not self._shape.gathers:
            return batch.wanted
        wanted[: len(batch.wanted)], wanted[len(batch.wanted) :] = batch.wanted, 0
        return range(len(batch.wanted))


class Graphs:
    """All captured shapes; a batch runs in the cheapest that it fits. It knows what capturing them took."""

    def __init__(
        self, make: Callable[[Shape], Graph], limits: Limits, device: torch.device, on_progress: OnProgress
    ) -> None:
        begin, free = time.perf_counter(), _free_bytes(device)
        shapes = shapes_for(limits)
        graphs: dict[Shape, Graph] = {}
        # The most expensive first: the others then fit into its memory.
        for index, shape in enumerate(reversed(shapes)):
            graphs[shape] = make(shape)
            on_progress(index + 1, len(shapes))
        self._graphs = {shape: graphs[shape] for shape in shapes}
        self.seconds = round(time.perf_counter() - begin, 3)
        self.megabytes = round((free - _free_bytes(device)) / 1e6)  # of the device, 0 on a CPU

    def __len__(self) -> int:
        return len(self._graphs)

    def launch(self, batch: Batch) -> GraphOutput | None:
        """Launches a batch, as `Graph.launch` does; None if it fits no graph."""
        graph = next((graph for shape, graph in self._graphs.items() if shape.fits(batch)), None)
        return graph.launch(batch) if graph is not None else None


def _free_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
