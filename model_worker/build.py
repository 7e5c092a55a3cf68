"""Builds a model and its engine from settings. It knows no wire and no process."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import structlog
import torch

from model_worker.engine.bookkeeping.batching import BatchingRule
from model_worker.engine.engine import Engine
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.attention_choice import default_page_size
from model_worker.engine.forward.loader import LoadedModel, load
from model_worker.engine.forward.memory import (
    CPU_BYTES,
    pages_that_fit,
    states_beside,
    states_that_fit,
    tokens_beside,
    window_pages,
    window_share,
)
from model_worker.engine.measure import measure_steps
from model_worker.engine.ranks.dividing import Division
from model_worker.engine.ranks.engine import RankedEngine
from model_worker.engine.ranks.group import Ranks
from model_worker.engine.shared_layers.engine import SharedEngine
from model_worker.engine.shared_layers.model import SharedModel, load_shared
from model_worker.engine.types import Limits, PrefixCache
from model_worker.settings import WorkerSettings
from model_worker.tokenizer import TokenizerFiles
from rstitch.errors import invalid

_log = structlog.get_logger(__name__)
_NOBODY_ELSE: AbstractContextManager[None] = nullcontext()


@dataclass(frozen=True, slots=True)
class Prepared:
    """What an engine is made of: a model in memory, and how much it may take of everything."""

    loaded: LoadedModel
    limits: Limits
    shared: SharedModel | None  # where the first layers are the SLM


def build(
    settings: WorkerSettings,
    tokenizer: TokenizerFiles,
    alone: AbstractContextManager[None] = _NOBODY_ELSE,
    ranks: Ranks | None = None,
) -> tuple[LoadedModel, Engine]:
    """Loads the model and makes its engine, with its step costs measured. Raises UnsupportedModel.

    While it is in `alone`, nobody else uses the device: steps captured or measured beside another's would be slow, and
    what they cost would be wrong for as long as the worker lives. With `ranks` this is rank 0, and the others `prepare`
    meanwhile, then follow.
    """
    made = prepare(settings, tokenizer, ranks)
    loaded, limits = made.loaded, made.limits
    if limits.compile == "on" and made.shared is None:
        _log.info("compiling steps unless that was done before: a minute, for large models several")
    with alone:
        engine = _engine(made, ranks)
        sizes = {"page_size": limits.page_size, "num_pages": limits.num_pages, "prefix_cache": limits.prefix_cache}
        sizes |= {"window_pages": limits.num_window_pages} if limits.num_window_pages else {}
        sizes |= {"num_states": limits.num_states} if loaded.states else {}
        _log.info("engine made", steps=engine.path, **sizes, **engine.captured)
        engine.costs = measure_steps(engine, settings.measure_ms / 1000)
        if isinstance(engine, SharedEngine):
            engine.shallow_costs = measure_steps(engine, settings.measure_ms / 1000, shallow=True)
    if engine.costs is not None:
        points = {f"rows_{c.num_rows}_tokens_{c.num_tokens_per_row}_us": c.step_us for c in engine.costs.step_costs}
        _log.info("steps measured", **points)
    return loaded, engine


def _engine(made: Prepared, ranks: Ranks | None) -> Engine:
    def on_progress(done: int, of: int) -> None:
        _log.debug("capturing steps", done=done, of=of)

    if ranks is not None:
        return RankedEngine(made.loaded, made.limits, ranks, on_progress)
    if made.shared is not None:
        return SharedEngine(made.loaded, made.shared, made.limits)
    return Engine(made.loaded, made.limits, on_progress)


def prepare(settings: WorkerSettings, tokenizer: TokenizerFiles, ranks: Ranks | None = None) -> Prepared:
    """Loads the model, or a rank's part of it, and says what it has room for. Raises UnsupportedModel."""
    threads = settings.threads
    if settings.tp > 1 and settings.device == "cpu":  # ranks on a CPU share its cores
        threads = max(1, (threads or torch.get_num_threads()) // settings.tp)
    if threads:
        torch.set_num_threads(threads)
    device = torch.device(settings.device)
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise UnsupportedModel(
            f"--device {settings.device}: torch sees {count} CUDA devices here; name one of them, or cpu"
        )
    name = settings.dtype
    if name == "auto":  # products with packed weights are fast in bfloat16 alone
        name = "bfloat16" if device.type == "cuda" or settings.quantize != "none" else "float32"
    if settings.random_weights is not None:
        _log.warning("random weights: for benchmarks only", model=settings.model, seed=settings.random_weights)
    loaded = load(
        settings.model,
        getattr(torch, name),
        device,
        settings.context_length,
        settings.random_weights,
        settings.quantize,
        Division(ranks) if ranks is not None else None,
    )
    vocab_size = _vocab_size(settings.model, loaded, tokenizer)
    loaded = replace(loaded, stop_tokens=_stop_tokens(loaded, tokenizer, vocab_size))
    shared = load_shared(settings.model, loaded.module) if settings.shared_listen else None
    page_size = settings.page_size or default_page_size(
        device, loaded.dtype, loaded.shapes, settings.attention, batch_invariant=settings.batch_invariant
    )
    num_states = _num_states(settings, loaded)
    more_bytes = shared.bytes_per_token if shared is not None else 0
    num_pages = _num_pages(settings, loaded, page_size, more_bytes, num_states)
    if ranks is not None:  # pages are rank 0's to give away, and every rank has each of them
        num_pages = ranks.least(num_pages)
    # What windows leave is not told to other ranks: such layers keep everything there.
    has_rooms = shared is None and ranks is None
    rooms = window_pages(loaded, num_pages, page_size, settings.max_batch_tokens) if has_rooms else 0
    limits = Limits(
        vocab_size=vocab_size,
        context_length=min(loaded.context_length, num_pages * page_size),
        num_pages=num_pages,
        page_size=page_size,
        num_window_pages=rooms,
        max_batch_tokens=settings.max_batch_tokens,
        background_stretch=settings.background_stretch,
        background_us=round(settings.background_ms * 1000),
        attention=settings.attention,
        graphs=settings.graphs,
        batch_invariant=settings.batch_invariant,
        matmul=settings.matmul,
        compile=settings.compile,
        prefix_cache=_prefix_cache(settings, device, has_windows=rooms > 0, has_states=bool(loaded.states)),
        fused=settings.fused,
        check_tokens=settings.check_tokens,
        num_states=num_states,
    )
    return Prepared(loaded, limits, shared)


def _vocab_size(model: str, loaded: LoadedModel, tokenizer: TokenizerFiles) -> int:
    """Returns the number of tokens that the tokenizer has and the model has rows for; warns where these differ."""
    num_rows = min(loaded.num_logits, loaded.num_embeddings)
    if num_rows < tokenizer.vocab_size:
        _log.warning(
            "the tokenizer has more tokens than the model has rows: ids from the number of rows on are refused",
            model=model,
            num_tokens=tokenizer.vocab_size,
            num_rows=num_rows,
        )
    return min(num_rows, tokenizer.vocab_size)


def _stop_tokens(loaded: LoadedModel, tokenizer: TokenizerFiles, vocab_size: int) -> frozenset[int]:
    """Returns what ends an answer by the model's files or by its tokenizer's: chat models often have it in one only."""
    eos = tokenizer.eos_token_id
    stops = loaded.stop_tokens if eos is None else loaded.stop_tokens | {eos}
    return frozenset(token for token in stops if 0 <= token < vocab_size)


def _prefix_cache(
    settings: WorkerSettings, device: torch.device, *, has_windows: bool, has_states: bool
) -> PrefixCache:
    """Returns how sessions have pages in common; on a CPU prompts are read in place, from pages that lie in a row.

    Raises UnsupportedModel where they cannot: layers that see a window only give back what others would look for.
    """
    if has_windows:
        if settings.prefix_cache not in ("auto", "off"):
            raise UnsupportedModel(
                f"{settings.model}: its layers with a window give back pages, so sessions have none in common; "
                "leave --prefix-cache at auto"
            )
        return "off"
    if settings.prefix_cache != "auto":
        return settings.prefix_cache
    if has_states:  # a page is no prefix without them
        return "off"
    return "copy" if device.type == "cpu" else "share"


def _num_states(settings: WorkerSettings, loaded: LoadedModel) -> int:
    if settings.num_states and loaded.states:
        return settings.num_states
    if settings.beside and loaded.states:
        return states_beside(loaded, settings.beside, settings.beside_quantize)
    return states_that_fit(loaded)


def _num_pages(
    settings: WorkerSettings, loaded: LoadedModel, page_size: int, more_bytes_per_token: int, num_states: int
) -> int:
    if settings.num_pages:
        return settings.num_pages
    tokens = settings.kv_tokens or (
        tokens_beside(loaded, settings.beside, settings.beside_quantize) if settings.beside else 0
    )
    if tokens:
        return max(1, tokens // page_size)
    keeps_all = settings.shared_listen or settings.tp > 1
    share = 1.0 if keeps_all else window_share(loaded, page_size, settings.max_batch_tokens)
    return pages_that_fit(
        loaded,
        page_size,
        more_bytes_per_token,
        num_states=num_states,
        cpu_bytes=CPU_BYTES // settings.tp,  # ranks on a CPU share its memory
        window_share=share,
    )


def make_batching(settings: WorkerSettings, engine: Engine) -> BatchingRule | None:
    """Returns the rule that holds steps back, None where there is none. Raises RstitchError if it lacks step costs."""
    if settings.batching == "eager":
        return None
    size = int(settings.batching.removeprefix("fixed:")) if settings.batching != "delayed" else 0
    if not size and engine.costs is None:
        raise invalid("--batching", "delayed needs to know what a step costs.", "Give --measure-ms more than 0.")
    return BatchingRule(engine.costs, settings.max_delay_ms / 1000, size)
