"""Runs the model on the rows of a schedule: host lists in, chosen tokens and entropies out.

It builds the flattened batch and calls the unmodified transformers model. It decides nothing: which rows, how many and
what happens with a token is the engine's business.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from model_worker.engine.bookkeeping.runs import Row, Run
from model_worker.engine.bookkeeping.session import Session
from model_worker.engine.bookkeeping.windows import WindowMap
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.attention_choice import choose_attention
from model_worker.engine.forward.attention_tables import BlockTableAttention
from model_worker.engine.forward.backend import AttentionBackend
from model_worker.engine.forward.batch import Batch, batch_order
from model_worker.engine.forward.binding import bind
from model_worker.engine.forward.capture import CudaCapture, Repeat
from model_worker.engine.forward.compiled import Opaque, Step, compiled_step
from model_worker.engine.forward.dispatch import use_attention
from model_worker.engine.forward.fusing_choice import fuse_here
from model_worker.engine.forward.graph_shapes import Shape
from model_worker.engine.forward.graphs import Graph, Graphs, OnProgress
from model_worker.engine.forward.invariant import at_least_two, make_invariant
from model_worker.engine.forward.kv_cache import KvCache
from model_worker.engine.forward.loader import LoadedModel
from model_worker.engine.forward.masking import Masking
from model_worker.engine.forward.matmul_choice import choose_matmul
from model_worker.engine.forward.model import Model
from model_worker.engine.forward.outcome import Outcome, choose_for, nothing
from model_worker.engine.forward.sampling import Choices, measure, measure_on_host, unpack
from model_worker.engine.forward.spoilt import Agree, find_spoilt
from model_worker.engine.forward.state_limits import WHY_NOT
from model_worker.engine.forward.state_store import StateStore
from model_worker.engine.forward.transfer import Later, to_device, to_host
from model_worker.engine.types import Limits, Returns, RunRequest


@dataclass(frozen=True, slots=True)
class Launched:
    """A step that the device was told to compute."""

    read: Later[Outcome | None]
    done: torch.cuda.Event | None  # comes when it is computed; None: it is, as always on a CPU
    graphed: bool | None  # whether a captured graph runs it; None: none is captured
    spoilt: Later[list[Row]] = list  # rows that left infinities or NaN unseen (`find_spoilt`); to be read after `wait`


class Runner:
    """Owns the KV tensors and the model's device; used by one thread at a time.

    The constructor raises UnsupportedModel if `limits` ask for a path that model or device cannot take.
    """

    _agree: Agree | None = None  # as in `find_spoilt`

    def __init__(
        self,
        loaded: LoadedModel,
        limits: Limits,
        on_progress: OnProgress = lambda done, of: None,
        windows: WindowMap | None = None,
    ) -> None:
        if limits.batch_invariant:
            limits = _without_other_sums(limits)
        self._loaded = loaded
        self._limits = limits
        self._use_device()
        self._matmul = choose_matmul(loaded.module, limits.matmul, whole=limits.batch_invariant)
        self._replace_parts(loaded.module)
        # One page more than the sessions get: left-over rows of graphs write there.
        num_pages = limits.num_pages + 1
        self._cache = KvCache(loaded.shapes, num_pages, limits.page_size, loaded.dtype, loaded.device, windows)
        self._states = StateStore(loaded, limits.num_states) if loaded.states else None
        self._masking = Masking(limits.vocab_size, loaded.device)
        self._model = self._make_model()
        self._attention: AttentionBackend
        choice = choose_attention(self._cache, limits, self._try)
        self._attention, self._why = choice.attention, choice.why
        use_attention(loaded.module, self._attention.forward)
        self._fused = fuse_here(loaded.module, self._attention, limits.fused)
        self._why_no_graphs = ""  # likewise of a capture
        self.graphs = self._make_graphs(on_progress)
        self._compiling = WHY_NOT if loaded.states else ""  # what `path` says of it
        self._compiled = self._make_compiled()

    @property
    def path(self) -> str:
        """Says how steps run (how the cache is read, graphs, fused kernels, compiled code), and why not otherwise."""
        graphs = " with graphs" if self.graphs is not None else self._why_no_graphs
        fused = f", fused: {self._fused}" if self._fused else ""
        matmul = f", matmul: {said}" if (said := str(self._matmul)) else ""
        why = f", as {self._why}" if self._why else ""
        weights = f", weights: {self._loaded.quantized}" if self._loaded.quantized else ""
        return f"{self._attention.name}{graphs}{fused}{self._compiling}{why}{matmul}{weights}"

    @property
    def overlaps(self) -> bool:
        """Whether the device computes by itself between `launch` and `wait`."""
        return self._loaded.device.type == "cuda"

    @torch.inference_mode()
    def launch(self, rows: list[Row], *, captured: bool = True) -> Launched:
        """Tells the device to compute the rows' KV and what they ask for, and waits for nothing; sorts `rows`.

        The step before must have been waited for. No captured graph runs it where `captured` is False.
        """
        self._use_device()
        rows.sort(key=batch_order)
        batch = Batch.of(rows, self._limits.page_size)
        device = self._loaded.device
        try:
            output = self.graphs.launch(batch) if captured and self.graphs is not None else None
            if output is None:
                read = self._launch_uncaptured(batch)
            else:
                read = self._choose(batch, output.measured, output.logits, output.hidden, output.index)
            last, everything = self._model.last_layer, self._attention.reads_masked
            spoilt = find_spoilt(self._cache, self._states, last, batch, self._agree, everything=everything)
        except Exception:
            # Nobody will wait for what the device was told already, and the next step writes where that still reads.
            if device.type == "cuda":
                torch.cuda.current_stream(device).synchronize()
            raise
        # Without results, too: steps that only catch up would pile up, and whoever comes would wait for all of them.
        done = torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None
        return Launched(read, done, None if self.graphs is None else output is not None, spoilt)

    @torch.inference_mode()
    def wait(self, launched: Launched) -> Outcome | None:
        """Waits until the device is done with a step, the one wait that there is, and returns what it computed.

        That is the outcome of the rows that are last and want a token, or the tokens of a draft, in the order of the
        batch; None if none is, or an empty one.
        """
        if launched.done is not None:
            launched.done.synchronize()
        return launched.read()

    def run(self, rows: list[Row], *, captured: bool = True) -> Outcome | None:
        """Launches a step and waits for it, where nothing is to be done in between."""
        return self.wait(self.launch(rows, captured=captured))

    def _launch_uncaptured(self, batch: Batch) -> Later[Outcome | None]:
        ids, positions = self._begin(batch)
        if self._compiled is not None:
            # Where nothing is wanted, one distribution is computed in vain.
            logits, hidden, found = self._compiled(ids, positions, torch.tensor(batch.wanted or [0]))
            if not batch.asked:
                return nothing
            return self._choose(batch, lambda: found, logits, hidden, range(len(batch.asked)))
        if not batch.asked:
            self._model.hidden(ids, positions)
            return nothing
        wanted: int | Tensor = 0  # all
        if len(batch.wanted) < batch.num_tokens:
            wanted = to_device(torch.tensor(batch.wanted), self._loaded.device)
        logits, hidden = self._model.logits(ids, positions, wanted)
        return self._choose(batch, None, logits, hidden, range(len(batch.asked)))

    def _choose(
        self, batch: Batch, measured: Later[Choices] | None, logits: Tensor, hidden: Tensor, index: Sequence[int]
    ) -> Later[Outcome | None]:
        """Tells the device to choose tokens, and before that to measure what was not `measured` in the forward."""
        if batch.masked:
            rows = {mask: [index[place] for place in places] for mask, places in batch.masked.items()}
            measured = self._masking.measured(logits, rows, len(batch.asked), measured, self._measure)
        if batch.bound:
            measured = bind(batch, logits, index, measured, self._measure)
        return choose_for(batch, measured or self._measure(logits), logits, hidden, index)

    def _measure(self, logits: Tensor) -> Later[Choices]:
        if logits.is_cuda:
            results = to_host(measure(logits))
            return lambda: unpack(results, logits.shape[-1])
        found = measure_on_host(at_least_two(logits) if self._limits.batch_invariant else logits)
        return lambda: found

    def warm_up(self) -> None:
        """Runs an uncaptured step of one token in the calling thread, on the page that nobody reads.

        torch keeps some things by thread: on CUDA a handle of cuBLAS and its workspace, on a CPU a team of threads.
        """
        self.run([self._trial_row()], captured=False)
        self.wipe([self._limits.num_pages])  # whatever token 0 has left there: masked, it may be read

    def wipe(self, pages: Sequence[int]) -> None:
        """Zeroes pages in which a forward left infinities or NaN."""
        self._cache.wipe(pages)

    @torch.inference_mode()
    def copy_pages(self, pages: Mapping[int, int]) -> None:
        """Copies whole pages (to, from) of the cache, all read before any is written."""
        self._cache.copy(pages)

    def _use_device(self) -> None:
        # Captures, and kernels that are not torch's own, go to the current device, which every thread has for itself.
        if self._loaded.device.type == "cuda":
            torch.cuda.set_device(self._loaded.device)

    def _begin(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns ids and positions, int64 [1, tokens], and tells the attention the rest."""
        # One tensor for three lists, so that one copy brings them to the device.
        numbers = to_device(torch.tensor((batch.ids, batch.positions, batch.slots)), self._loaded.device)
        self._attention.begin(batch, numbers[2])
        self._model.begin(numbers[2])
        if self._states is not None:
            self._states.begin(batch)
        return numbers[0:1], numbers[1:2]

    def _replace_parts(self, module: nn.Module) -> None:
        if self._limits.batch_invariant:
            make_invariant(module, self._limits.context_length, self._matmul)
        self._matmul.put_into(module)

    def _make_model(self) -> Model:
        return Model(self._loaded, self._limits.vocab_size)

    @torch.inference_mode()
    def _try(self, attention: AttentionBackend) -> None:
        """Runs one token, then many, on the page that nobody reads; raises what the kernel raises."""
        self._attention = attention
        use_attention(self._loaded.module, attention.forward)
        for count in (1, min(self._limits.page_size, self._limits.context_length)):
            batch = Batch.of([self._trial_row(count)], self._limits.page_size)
            measure(self._model.logits(*self._begin(batch))[0]).tolist()

    def _trial_row(self, count: int = 1) -> Row:
        session = Session("trial")
        session.tokens.extend([0] * count)
        session.pages.append(self._limits.num_pages)
        run = Run(0, RunRequest("trial", 0, [0] * count, returns=Returns()), session)
        return Row(run, 0, count, is_last=True)

    def _wants_graphs(self) -> bool:
        return self._limits.graphs == "on" or (self._limits.graphs == "auto" and self._loaded.device.type == "cuda")

    @torch.inference_mode()
    def _make_graphs(self, on_progress: OnProgress) -> Graphs | None:
        attention, device = self._attention, self._loaded.device
        if not self._wants_graphs():
            return None
        if not isinstance(attention, BlockTableAttention):
            if self._limits.graphs == "on":
                raise UnsupportedModel(
                    "graphs need attention through block tables (varlen or triton), which does not run this model here"
                )
            return None
        # On a CPU a graph is its function, run again: padded as on a device, without the gain.
        capture = CudaCapture(device) if device.type == "cuda" else Repeat()

        def make(shape: Shape) -> Graph:
            return Graph(shape, attention, self._model, capture, self._limits, device)

        try:
            return Graphs(make, self._limits, device, on_progress)
        except Exception as error:  # whatever a model does that a graph cannot hold, or a device has no room for
            if self._limits.graphs == "auto":
                self._why_no_graphs = f" without graphs, as its steps cannot be captured here: {error}"
                return None
            raise UnsupportedModel(
                f"{type(self._loaded.module).__name__}: its steps cannot be captured here: {error}; "
                "start with --graphs off"
            ) from error

    def _make_compiled(self) -> Step | None:
        """Returns the compiled forward, None where it is not for here; raises UnsupportedModel if it was asked for."""
        wish = self._limits.compile
        if wish == "off" or (wish == "auto" and self._loaded.device.type != "cpu"):
            return None
        if self._loaded.device.type != "cpu":
            raise UnsupportedModel("compiled steps are for CPUs; start with --compile off")
        try:
            step = compiled_step(
                self._loaded,
                self._model.logits,
                Opaque(self._attention, self._matmul),
                self._limits.vocab_size,
                cached_only=wish == "auto",
            )
        except UnsupportedModel as error:
            if wish == "on":
                raise
            self._compiling = f", not compiled: {error}"
            return None
        if wish == "auto" and (over := self._time(step) / self._time(None)) >= 1:
            self._compiling = f", not compiled: that takes {over:.2f} times as long here"
            return None
        self._compiling = ", compiled"
        return step

    def _time(self, step: Step | None) -> float:
        """Returns the seconds of two forwards, of one token and of several, on the page that nobody reads."""
        self._compiled = step
        total = 0.0
        for count in (1, min(8, self._limits.page_size, self._limits.context_length)):
            seconds = []
            for _ in range(8):
                begin = time.perf_counter()
                self.run([self._trial_row(count)], captured=False)
                seconds.append(time.perf_counter() - begin)
            total += min(seconds)
        return total


def _without_other_sums(limits: Limits) -> Limits:
    """Leaves out what sums in an order of its own. Raises UnsupportedModel if that was asked for by name."""
    for name, value in (("fused", limits.fused), ("compile", limits.compile)):
        if value == "on":
            raise UnsupportedModel(f"--{name} on is not batch-invariant; leave it at auto, or start without that")
    return replace(limits, fused="off", compile="off")
