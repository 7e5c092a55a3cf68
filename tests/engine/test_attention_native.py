"""Laws of the attention kernel for CPUs: it equals the plain formula, reads what was written alone, knows no batch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model_worker.engine.bookkeeping.runs import Row, Run
from model_worker.engine.bookkeeping.session import Session
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward import native
from model_worker.engine.forward.attention_native import NativeAttention
from model_worker.engine.forward.batch import Batch
from model_worker.engine.forward.kv_cache import KvCache, LayerShape
from model_worker.engine.forward.reach import Reach
from model_worker.engine.types import RunRequest
from tests.support.engines import make_engine

NUM_PAGES = 160
SCALE = 0.2
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-12, torch.bfloat16: 2e-2}


class _Layer(torch.nn.Module):
    layer_idx = 0


def _cache(shape: LayerShape, page_size: int, dtype: torch.dtype) -> KvCache:
    cache = KvCache([shape], NUM_PAGES, page_size, dtype, torch.device("cpu"))
    for tensor in (*cache.keys, *cache.values):  # whatever reads a slot that no token has written gets NaN
        tensor.fill_(float("nan"))
    return cache


def _rows(lengths: list[tuple[int, int]], page_size: int) -> list[Row]:
    """Rows of (keys before, new tokens), each session on scattered pages of its own."""
    free = torch.randperm(NUM_PAGES, generator=torch.Generator().manual_seed(5)).tolist()
    rows = []
    for index, (start, count) in enumerate(lengths):
        session = Session(f"s{index}")
        session.tokens.extend([1] * (start + count))
        session.pages.extend(free.pop() for _ in range(-(-(start + count) // page_size)))
        session.contiguous = len(session.pages) == 1
        rows.append(Row(Run(index, RunRequest(session.session_id, 0, (0,)), session), start, count, is_last=True))
    return rows


def _fill(cache: KvCache, rows: list[Row]) -> list[tuple[Tensor, Tensor]]:
    """Writes random keys and values before each row's own; returns them in order of position."""
    held = []
    for row in rows:
        slots = [row.run.session.pages[p // cache.page_size] * cache.page_size + p % cache.page_size
                 for p in range(row.start)]  # fmt: skip
        k, v = (torch.randn(row.start, *t.shape[1:]).to(cache.dtype) for t in (cache.keys[0], cache.values[0]))
        cache.keys[0][slots], cache.values[0][slots] = k, v
        held.append((k, v))
    return held


def _naive(q: Tensor, k: Tensor, v: Tensor, start: int, shape: LayerShape, sinks: Tensor | None = None) -> Tensor:
    """[tokens, heads, value_dim] in float64, by the formula; q [tokens, heads, dim], k and v [keys, kv_heads, dim]."""
    repeats = q.shape[1] // k.shape[1]
    k, v = (t.double().repeat_interleave(repeats, 1) for t in (k, v))
    scores = torch.einsum("thd,shd->hts", q.double(), k) * SCALE
    if shape.softcap is not None:
        scores = shape.softcap * torch.tanh(scores / shape.softcap)
    keys, positions = torch.arange(k.shape[0])[None], torch.arange(start, start + q.shape[0])[:, None]
    unseen = keys > positions
    if shape.reach.window:
        unseen |= keys <= positions - shape.reach.window
    if shape.reach.chunk:
        unseen |= keys < positions // shape.reach.chunk * shape.reach.chunk
    scores = scores.masked_fill(unseen, float("-inf"))
    if sinks is not None:
        scores = torch.cat([scores, sinks.double()[:, None, None].expand(-1, q.shape[0], 1)], dim=-1)
    return torch.einsum("hts,shd->thd", scores.softmax(-1)[..., : k.shape[0]], v)


def _attend(cache: KvCache, rows: list[Row], q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None = None) -> Tensor:
    attention = NativeAttention(cache)
    batch = Batch.of(rows, cache.page_size)
    attention.begin(batch, torch.tensor(batch.slots))
    # As a layer passes them: [1, heads, tokens, dim], in the memory of [tokens, heads, dim].
    out, _ = attention.forward(_Layer(), *(t[None].transpose(1, 2) for t in (q, k, v)), None, SCALE, sinks)
    return out[0]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("heads", "page_size", "shape"),
    [
        (3, 16, LayerShape(3, 64, 64, None)),
        (8, 16, LayerShape(2, 128, 128, None)),
        (8, 7, LayerShape(1, 80, 48, 5.0)),
        (4, 32, LayerShape(4, 17, 17, None)),
        (8, 16, LayerShape(2, 64, 64, None, Reach(window=1), has_sinks=True)),
        (4, 7, LayerShape(2, 48, 48, 5.0, Reach(window=66))),
        (4, 16, LayerShape(2, 128, 128, None, Reach(chunk=24), has_sinks=True)),
        (4, 16, LayerShape(1, 17, 17, 5.0, has_sinks=True)),
    ],
)
def test_it_equals_the_formula(dtype: torch.dtype, heads: int, page_size: int, shape: LayerShape) -> None:
    torch.manual_seed(0)
    cache = _cache(shape, page_size, dtype)
    lengths = [(0, 1), (1, 1), (63, 1), (64, 1), (200, 1), (0, 3), (70, 16), (0, 40), (30, 20)]
    rows = _rows(lengths, page_size)
    held = _fill(cache, rows)
    num_tokens = sum(count for _, count in lengths)
    sizes = (heads, shape.key_dim), (shape.num_kv_heads, shape.key_dim), (shape.num_kv_heads, shape.value_dim)
    q, k, v = (torch.randn(num_tokens, *size).to(dtype) for size in sizes)
    sinks = 3 * torch.randn(heads).to(dtype) if shape.has_sinks else None
    out = _attend(cache, rows, q, k, v, sinks)
    at = 0
    for row, (old_k, old_v) in zip(rows, held, strict=True):
        own = slice(at, at + row.num_tokens)
        expected = _naive(q[own], torch.cat([old_k, k[own]]), torch.cat([old_v, v[own]]), row.start, shape, sinks)
        torch.testing.assert_close(out[own].double(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
        at += row.num_tokens


@pytest.mark.parametrize("threads", [1, 2])
def test_a_token_gets_the_same_bits_alone_and_in_any_batch(threads: int) -> None:
    torch.manual_seed(1)
    cache = _cache(LayerShape(2, 64, 64, None), 16, torch.float32)
    rows = _rows([(n, 1) for n in (3, 150, 64, 90, 17, 128, 1, 33, 77, 12)], 16)
    _fill(cache, rows)
    q, k, v = torch.randn(10, 8, 64), torch.randn(10, 2, 64), torch.randn(10, 2, 64)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = _attend(cache, rows, q, k, v)
        for index, row in enumerate(rows):
            own = slice(index, index + 1)
            assert torch.equal(_attend(cache, [row], q[own], k[own], v[own])[0], together[index])
    finally:
        torch.set_num_threads(before)


def test_what_is_not_finite_is_not_hidden() -> None:
    cache = _cache(LayerShape(1, 64, 64, None), 16, torch.float32)
    rows = _rows([(20, 1), (20, 1)], 16)
    _fill(cache, rows)
    q, k, v = torch.randn(2, 1, 64), torch.randn(2, 1, 64), torch.randn(2, 1, 64)
    q[0, 0, 0] = float("nan")
    out = _attend(cache, rows, q, k, v)
    assert out[0].isnan().all()
    assert out[1].isfinite().all()


@pytest.fixture
def fresh_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """An empty cache folder, and no library loaded before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.load_native.cache_clear()
    yield tmp_path
    native.load_native.cache_clear()


@pytest.mark.parametrize(
    ("variable", "value", "why"),
    [("PATH", "", "no C\\+\\+ compiler"), ("CXX", "/bin/false", "/bin/false"), ("CXX", "none-such", "none-such")],
)
def test_without_a_compiler_it_says_why_and_serves_the_other_way(
    fresh_cache: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, why: str
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv(variable, value)
    assert make_engine()[0].path.startswith("in-place, as native attention does not build here: ")
    with pytest.raises(UnsupportedModel, match=why):
        make_engine(attention="native")


def test_without_a_home_it_says_why_and_serves_the_other_way(
    fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")

    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    engine = make_engine(compile="auto")[0]
    assert engine.path.startswith("in-place, not compiled: no folder to keep it in: ")
    assert "name one in XDG_CACHE_HOME" in engine.path


def test_a_compiler_that_fails_without_a_word_is_no_reason_to_end(
    fresh_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    compiler = tmp_path_factory.mktemp("bin") / "silent"
    compiler.write_text("#!/bin/sh\necho >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert "returned non-zero exit status 1" in make_engine()[0].path


def test_a_library_that_others_could_have_written_is_not_loaded(fresh_cache: Path) -> None:
    make_engine(attention="native")
    folder = fresh_cache / "rstitch"
    (library,) = folder.iterdir()
    for path, mode in ((library, 0o666), (folder, 0o777)):
        before = path.stat().st_mode
        path.chmod(mode)
        native.load_native.cache_clear()
        with pytest.raises(UnsupportedModel, match=f"{path.name}.* others may write to it; remove it"):
            make_engine(attention="native")
        path.chmod(before)


def test_a_library_cut_short_is_built_again(fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_engine(attention="native")
    (built,) = (fresh_cache / "rstitch").iterdir()
    # In another folder: a library that this process has loaded is not read again.
    library = fresh_cache / "other" / "rstitch" / built.name
    library.parent.mkdir(parents=True)
    library.touch(mode=0o600)
    monkeypatch.setenv("XDG_CACHE_HOME", str(fresh_cache / "other"))
    native.load_native.cache_clear()
    make_engine(attention="native")
    assert library.stat().st_size > 0


def test_it_is_built_once(fresh_cache: Path) -> None:
    assert make_engine()[0].path == "native"
    (library,) = (fresh_cache / "rstitch").iterdir()
    built = os.stat(library).st_mtime_ns
    native.load_native.cache_clear()
    assert make_engine()[0].path == "native"
    assert os.stat(library).st_mtime_ns == built
