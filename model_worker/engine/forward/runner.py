"""Runs the model on the rows of a schedule: host lists in, chosen tokens and entropies out.

It builds the flattened batch and calls the unmodified transformers model. It decides nothing: which rows, how many and
what happens with a token is the engine's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from model_worker.engine.bookkeeping.scheduler import Row, Run
from model_worker.engine.bookkeeping.session import Session
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.attention_choice import choose_attention
from model_worker.engine.forward.attention_tables import BlockTableAttention
from model_worker.engine.forward.backend import AttentionBackend
from model_worker.engine.forward.batch import Batch, batch_order
from model_worker.engine.forward.fusing_choice import fuse_here
from model_worker.engine.forward.graphs import Graph, Graphs, OnProgress, cuda_capture, repeat
from model_worker.engine.forward.kv_cache import KvCache
from model_worker.engine.forward.loader import LoadedModel, use_attention
from model_worker.engine.forward.sampling import Choices, choose, margins, measure, measure_on_host, unpack
from model_worker.engine.types import Limits, Returns, RunRequest, Signal


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step computed, with one entry per distribution that was asked for. Its bytes are float32 little-endian."""

    choices: Choices  # on the host
    logits: Tensor  # [n, vocab_size], on the device, valid until the next run
    hidden: Tensor  # [n, hidden_size], likewise
    index: Sequence[int]  # which of the n rows each entry has; a captured graph computes all rows
    margins: Mapping[int, float]  # p1 - p2 by entry, where a hand-off compares it

    def hidden_state(self, row: int) -> bytes:
        return _raw(self.hidden[self.index[row]])

    def raw_logits(self, row: int) -> bytes:
        return _raw(self.logits[self.index[row]])

    def top_logits(self, row: int, count: int) -> tuple[tuple[int, float], ...]:
        """Returns the `count` largest logits as pairs of token and logit, descending."""
        values, ids = self.logits[self.index[row]].float().topk(min(count, self.logits.shape[1]))
        return tuple(zip(ids.tolist(), values.tolist(), strict=True))


class Runner:
    """Owns the KV tensors and the model's device; used by one thread at a time.

    The constructor raises UnsupportedModel if `limits` ask for a path that model or device cannot take.
    """

    def __init__(self, loaded: LoadedModel, limits: Limits, on_progress: OnProgress = lambda done, of: None) -> None:
        self._loaded = loaded
        self._limits = limits
        self._use_device()
        # One page more than the sessions get: left-over rows of graphs write there.
        self._cache = KvCache(loaded.shapes, limits.num_pages + 1, limits.page_size, loaded.dtype, loaded.device)
        self._hidden: Tensor | None = None
        self._slots: Tensor = torch.empty(0, dtype=torch.int64)  # of the batch's tokens, on the device
        loaded.module.get_output_embeddings().register_forward_pre_hook(self._capture_hidden)
        self._attention: AttentionBackend
        choice = choose_attention(self._cache, limits, self._try)
        self._attention, self._why = choice.attention, choice.why
        use_attention(loaded.module, self._attention.forward)
        self._fused = fuse_here(loaded.module, self._attention, limits.fused)
        self._graphs = self._make_graphs(on_progress)
        self.graphed: bool | None = None  # whether the last step was a captured graph's; None: none is captured

    @property
    def path(self) -> str:
        """Says how steps run: how the cache is read, with graphs or not, what is fused, and why not otherwise."""
        graphs = " with graphs" if self._graphs is not None else ""
        fused = f", fused: {self._fused}" if self._fused else ""
        return f"{self._attention.name}{graphs}{fused}{f', as {self._why}' if self._why else ''}"

    @torch.inference_mode()
    def run(self, rows: list[Row]) -> Outcome | None:
        """Computes the rows' KV; sorts `rows` into the order of the batch.

        Returns the outcome of the rows that are last and want a token, or the tokens of a draft, in that order; None
        if none is.
        """
        self._use_device()
        rows.sort(key=batch_order)
        batch = Batch.of(rows, self._limits.page_size)
        if self._graphs is not None:
            output = self._graphs.run(batch)
            self.graphed = output is not None
            if output is not None:
                return _outcome(batch, output.measured, output.logits, output.hidden, batch.wanted)
        ids, places = self._begin(batch)
        if not batch.asked:
            module, inputs = self._model(ids)
            module.base_model(**inputs, position_ids=places, use_cache=False)
            if self._loaded.device.type == "cuda":
                # No result makes the host wait: steps would pile up, and whoever comes would wait for all of them.
                torch.cuda.current_stream(self._loaded.device).synchronize()
            return None
        wanted: int | Tensor = 0  # all
        if len(batch.wanted) < batch.num_tokens:
            wanted = torch.tensor(batch.wanted).to(self._loaded.device, non_blocking=True)
        logits, hidden = self._forward(ids, places, wanted)
        measured = measure_on_host(logits) if logits.device.type == "cpu" else unpack(measure(logits), logits.shape[-1])
        return _outcome(batch, measured, logits, hidden, range(len(batch.asked)))

    def wipe(self, pages: Sequence[int]) -> None:
        """Zeroes pages in which a forward left infinities or NaN."""
        self._cache.wipe(pages)

    def _use_device(self) -> None:
        # Captures, and kernels that are not torch's own, go to the current device, which every thread has for itself.
        if self._loaded.device.type == "cuda":
            torch.cuda.set_device(self._loaded.device)

    def _begin(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns ids and positions, int64 [1, tokens], and tells the attention the rest."""
        # One tensor for three lists, so that one copy brings them to the device.
        numbers = torch.tensor((batch.ids, batch.positions, batch.slots)).to(self._loaded.device, non_blocking=True)
        self._slots = numbers[2]
        self._attention.begin(batch, self._slots)
        return numbers[0:1], numbers[1:2]

    def _model(self, ids: Tensor) -> tuple[Any, dict[str, Tensor]]:
        """Returns the module that computes the batch, and its inputs besides the positions."""
        return self._loaded.module, {"input_ids": ids}

    def _forward(self, ids: Tensor, positions: Tensor, logits_to_keep: int | Tensor = 0) -> tuple[Tensor, Tensor]:
        """Returns logits [kept, vocab_size] and hidden states [kept, hidden_size]; takes int64 [1, tokens] twice."""
        module, inputs = self._model(ids)
        logits = module(**inputs, position_ids=positions, use_cache=False, logits_to_keep=logits_to_keep).logits[0]
        assert self._hidden is not None
        # An LM head may have more rows than the vocabulary, to fill its shape up. No token stands for these rows: they
        # are cut off here, before anything is measured or chosen.
        #
        #   LM head  0 ................ vocab_size ........ num_logits
        #            real tokens        padding, not looked at
        return logits[:, : self._limits.vocab_size], self._hidden

    def _capture_hidden(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Keeps the LM head's input: the last hidden states of just the rows asked for."""
        self._hidden = inputs[0][0]

    @torch.inference_mode()
    def _try(self, attention: AttentionBackend) -> None:
        """Runs one token, then many, on the page that nobody reads; raises what the kernel raises."""
        self._attention = attention
        use_attention(self._loaded.module, attention.forward)
        for count in (1, min(self._limits.page_size, self._limits.context_length)):
            session = Session("trial")
            session.tokens.extend([0] * count)
            session.pages.append(self._limits.num_pages)
            run = Run(0, RunRequest("trial", 0, [0] * count, returns=Returns()), session)
            batch = Batch.of([Row(run, 0, count, is_last=True)], self._limits.page_size)
            measure(self._forward(*self._begin(batch))[0]).tolist()

    @torch.inference_mode()
    def _make_graphs(self, on_progress: OnProgress) -> Graphs | None:
        attention, device = self._attention, self._loaded.device
        if self._limits.graphs == "off" or (self._limits.graphs == "auto" and device.type != "cuda"):
            return None
        if not isinstance(attention, BlockTableAttention):
            if self._limits.graphs == "on":
                raise UnsupportedModel(
                    "graphs need attention through block tables (varlen or triton), which does not run this model here"
                )
            return None
        # On a CPU a graph is its function, run again: padded as on a device, without the gain.
        capture = cuda_capture(torch.cuda.graph_pool_handle()) if device.type == "cuda" else repeat

        def make(num_tokens: int, max_queries: int) -> Graph:
            return Graph(num_tokens, max_queries, attention, self._forward, capture, self._limits, device)

        try:
            return Graphs(make, on_progress)
        except Exception as error:  # whatever a model does that a graph cannot hold, or a device has no room for
            raise UnsupportedModel(
                f"{type(self._loaded.module).__name__}: its steps cannot be captured here: {error}; "
                "start with --graphs off"
            ) from error


def _outcome(batch: Batch, measured: Choices, logits: Tensor, hidden: Tensor, index: Sequence[int]) -> Outcome:
    """Chooses tokens; `index` says which rows of `logits` and `hidden` the batch asked for."""
    samplings = [row.run.request.sampling for row in batch.asked]
    positions = [batch.positions[place] + 1 for place in batch.wanted]
    choices = choose(measured, logits, index, samplings, positions)
    handoffs = [row.run.request.handoff for row in batch.asked]
    by_margin = [place for place, handoff in enumerate(handoffs) if handoff and handoff.signal is Signal.MARGIN]
    values = margins(logits, [index[place] for place in by_margin]) if by_margin else []
    return Outcome(choices, logits, hidden, index, dict(zip(by_margin, values, strict=True)))


def _raw(values: Tensor) -> bytes:
    return values.float().cpu().numpy().astype("<f4").tobytes()
