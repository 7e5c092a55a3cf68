"""The kernel against attention written out in float64: pages, heads, groups, caps, windows, sinks, lengths.

Every slot that a row has not written holds NaN, so that reading one shows.
"""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from model_worker.engine.forward.attention_tables import Tables
from model_worker.engine.forward.kernels import paged_attention as module
from model_worker.engine.forward.kernels.availability import interprets
from model_worker.engine.forward.kernels.paged_attention import paged_attention

TOLERANCES = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}


@dataclass(frozen=True)
class Case:
    page_size: int = 16
    dim: int = 64
    value_dim: int | None = None  # None: as `dim`
    group: int = 2
    kv_heads: int = 2
    counts: tuple[int, ...] = (1, 3, 9)  # new tokens by row
    lengths: tuple[int, ...] = (40, 3, 100)  # keys by row, the new ones included
    softcap: float | None = None
    window: int | None = None
    chunk: int | None = None  # not beside a window
    sinks: bool = False
    dtype: torch.dtype = torch.float32
    keys_per_split: int | None = None


@dataclass(frozen=True)
class Call:
    """What the kernel is given, and what has to come out, in float64."""

    query: Tensor
    keys: Tensor
    values: Tensor
    tables: Tables
    sinks: Tensor | None
    expected: Tensor


def make_call(case: Case, device: torch.device, max_keys: int | None = None) -> Call:
    generator = torch.Generator().manual_seed(hash((case.page_size, case.dim, case.group)) % 1000)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(case.dtype)

    heads, value_dim = case.kv_heads * case.group, case.value_dim or case.dim
    num_rows, num_tokens, page = len(case.counts), sum(case.counts), case.page_size
    width = -(-max(case.lengths) // page)
    num_slots = (num_rows * width + 1) * page
    pages = torch.randperm(num_rows * width + 1, generator=generator)[: num_rows * width].view(num_rows, width)
    keys, values = normal(num_slots, case.kv_heads, case.dim), normal(num_slots, case.kv_heads, value_dim)
    # As queries come out of a layer: [1, heads, tokens, dim] over a [1, tokens, heads, dim].
    query = normal(1, num_tokens, heads, case.dim).transpose(1, 2)[0].transpose(0, 1)
    sinks = normal(heads) if case.sinks else None
    expected = torch.empty(num_tokens, heads, value_dim, dtype=torch.float64)
    written = torch.zeros(num_slots, dtype=torch.bool)
    at = 0
    for row, (count, length) in enumerate(zip(case.counts, case.lengths, strict=True)):
        slots = (pages[row][:, None] * page + torch.arange(page)).flatten()[:length]
        if count:
            written[slots] = True
        expected[at : at + count] = attend(case, query[at : at + count], keys[slots], values[slots], sinks)
        at += count
    keys[~written], values[~written] = math.nan, math.nan
    tables = Tables(
        slots=torch.zeros(num_tokens, dtype=torch.int64, device=device),
        ends=torch.tensor([0, *itertools.accumulate(case.counts)], dtype=torch.int32, device=device),
        lengths=torch.tensor(case.lengths, dtype=torch.int32, device=device),
        pages=pages.to(device, torch.int32),
        max_queries=max(case.counts),
        max_keys=max_keys or max(case.lengths),
    )
    return Call(query.to(device), keys.to(device), values.to(device), tables, sinks, expected)


def attend(case: Case, query: Tensor, keys: Tensor, values: Tensor, sinks: Tensor | None) -> Tensor:
    """Attention of one row, in float64: query [n, heads, dim] over keys and values [k, kv_heads, dim]."""
    n, k = query.shape[0], keys.shape[0]
    q, k_, v = (t.double() for t in (query, keys, values))
    scores = torch.einsum("nhd,khd->hnk", q, k_.repeat_interleave(case.group, 1)) * case.dim**-0.5
    if case.softcap is not None:
        scores = case.softcap * torch.tanh(scores / case.softcap)
    position, key = torch.arange(k - n, k)[:, None], torch.arange(k)[None]
    sees = key <= position
    if case.window is not None:
        sees &= key > position - case.window
    if case.chunk is not None:
        sees &= key >= position // case.chunk * case.chunk
    scores = scores.masked_fill(~sees, -math.inf)
    if sinks is not None:
        scores = torch.cat([scores, sinks.double()[:, None, None].expand(-1, n, 1)], -1)
    weights = scores.softmax(-1)[..., :k]
    return torch.einsum("hnk,khd->nhd", weights, v.repeat_interleave(case.group, 1))


def run(case: Case, call: Call) -> Tensor:
    sinks = None if call.sinks is None else call.sinks.to(call.query.device)
    return paged_attention(
        call.query, call.keys, call.values, call.tables, case.page_size,
        softcap=case.softcap, window=case.window, chunk=case.chunk, sinks=sinks, keys_per_split=case.keys_per_split,
    )  # fmt: skip


def check(case: Case, device: torch.device, max_keys: int | None = None) -> None:
    call = make_call(case, device, max_keys)
    out = run(case, call).cpu().double()
    assert out.isfinite().all()
    error = float((out - call.expected).norm() / call.expected.norm())
    assert error < TOLERANCES[case.dtype], error


def covering(seed: int, count: int) -> list[Case]:
    """Cases in which each value of each dimension stands at least once, combined at random."""
    values: dict[str, list[object]] = {
        "page_size": [16, 48, 256],
        "dim": [64, 80, 96, 128, 192, 256],
        "group": [1, 2, 3, 4, 5, 6, 7, 8],
        "kv_heads": [1, 1, 2],
        "softcap": [None, 20.0],
        "window": [None, 7, 100],
        "sinks": [False, True],
        "dtype": [torch.float32, torch.float32, torch.float16],
        "shape": [
            ((1, 1, 1), (1, 130, 300)),  # one token each
            ((1, 3, 7), (150, 3, 200)),  # mixed
            ((2, 0, 0), (33, 1, 1)),  # rows without tokens, as fillers of a captured step
            ((40,), (40,)),  # a prompt
            ((1,), (1000,)),
        ],
    }
    chance = random.Random(seed)
    decks = {name: list(itertools.islice(itertools.cycle(deck), count)) for name, deck in values.items()}
    for deck in decks.values():
        chance.shuffle(deck)
    cases = []
    for index in range(count):
        chosen = {name: deck[index] for name, deck in decks.items()}
        counts, lengths = chosen.pop("shape")  # type: ignore[misc]
        cases.append(Case(**chosen, counts=counts, lengths=lengths))  # type: ignore[arg-type]
    return cases


@pytest.mark.parametrize("case", covering(seed=1, count=8), ids=str)
def test_it_is_attention(case: Case, device: torch.device) -> None:
    check(case, device)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page_size", [16, 48, 256])
@pytest.mark.parametrize("dim", [64, 80, 96, 128, 192, 256])
@pytest.mark.parametrize("group", range(1, 9))
def test_it_is_attention_in_every_combination(page_size: int, dim: int, group: int, device: torch.device) -> None:
    chance = random.Random(page_size + dim + group)
    options = itertools.product([None, 20.0], [None, 50], [False, True])
    for softcap, window, sinks in options:
        length = chance.choice([1, 2, 15, 16, 17, 255, 256, 257, 1000, 4095, 4096])
        shape = chance.choice([((1,), (length,)), ((1, 1), (length, 77)), ((min(length, 9), 1, 0), (length, 20, 1))])
        case = Case(page_size, dim, None, group, 1, *shape, softcap, window, None, sinks)
        check(case, device)


@pytest.mark.parametrize(
    "length", [1, 15, 16, 17, 64, 65, 127, 128, 129, pytest.param(4095, marks=pytest.mark.soak), 4096]
)
def test_lengths_at_the_edges_of_blocks_and_splits(length: int, device: torch.device) -> None:
    check(Case(counts=(1,), lengths=(length,), kv_heads=1), device)


@pytest.mark.parametrize("chunk", [24, 64])
def test_chunks(chunk: int, device: torch.device) -> None:
    check(Case(kv_heads=1, counts=(1, 3, 40), lengths=(71, 25, 100), chunk=chunk, sinks=True), device)


def test_a_key_of_another_size_than_its_value(device: torch.device) -> None:
    check(Case(dim=96, value_dim=64), device)


@pytest.mark.parametrize("counts", [(1, 1), (3, 2)])
def test_a_short_row_beside_a_limit_that_is_long(counts: tuple[int, ...], device: torch.device) -> None:
    """As in a captured step, which is told the longest context: what no program has work for weighs nothing."""
    check(Case(counts=counts, lengths=(5, 200)), device, max_keys=4096)


def test_bfloat16(device: torch.device) -> None:
    check(Case(dtype=torch.bfloat16, lengths=(300, 3, 100)), device)


def multiply(a: np.ndarray, b: np.ndarray, dtype: object = None) -> np.ndarray:
    """Sums in one order wherever a row lies in its tile, which BLAS does not."""
    return (a[:, :, None] * b[None]).sum(1, dtype=dtype)


@pytest.mark.parametrize(
    ("lengths", "window", "sinks"),
    [
        pytest.param((70, 150), None, False, marks=pytest.mark.soak),
        ((70, 150), 70, True),
        ((50, 700), None, False),
    ],
)
def test_with_fixed_splits_a_token_does_not_depend_on_its_neighbours(
    lengths: tuple[int, int], window: int | None, sinks: bool, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit: decoded alone, beside others, in a chunk, in parts of a chunk, under another limit."""
    monkeypatch.setattr(np, "matmul", multiply)
    case = Case(
        dim=16,
        kv_heads=1,
        counts=(1, 1),
        lengths=lengths,
        window=window,
        sinks=sinks,
        keys_per_split=64,
        page_size=64,
    )
    call = make_call(case, device)
    both = run(case, call)
    assert torch.equal(both, run(case, replace(call, tables=replace(call.tables, max_keys=5000))))
    tables = call.tables
    alone = replace(
        tables,
        ends=tables.ends[:2].contiguous(),
        lengths=tables.lengths[:1],
        pages=tables.pages[:1],
        max_keys=lengths[0],
    )
    assert torch.equal(both[:1], run(case, replace(call, query=call.query[:1], tables=alone)))
    # The second row's token as the last of a chunk of four.
    chunk = call.query[1:].expand(4, -1, -1)
    of_chunk = replace(
        tables, ends=torch.tensor([0, 4], dtype=torch.int32, device=device),
        lengths=tables.lengths[1:], pages=tables.pages[1:], max_queries=4,
    )  # fmt: skip
    assert torch.equal(both[1:], run(case, replace(call, query=chunk, tables=of_chunk))[3:])
    if max(lengths) > 200:
        return  # the interpreter takes long
    monkeypatch.setattr(module, "_MOST_PART_BYTES", 1)  # a token at a time
    assert torch.equal(both, run(case, call))
    assert torch.equal(both[1:], run(case, replace(call, query=chunk, tables=of_chunk))[3:])


@pytest.mark.parametrize("most_part_bytes", [64 << 20, 1 << 14])
@pytest.mark.parametrize(("counts", "lengths"), [((1, 1), (9, 700)), ((3, 0, 1), (70, 1, 530))])
def test_fixed_splits_are_attention(
    counts: tuple[int, ...], lengths: tuple[int, ...], most_part_bytes: int, device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "_MOST_PART_BYTES", most_part_bytes)
    check(Case(dim=16, kv_heads=1, counts=counts, lengths=lengths, keys_per_split=64, page_size=64), device)


def test_splits_follow_a_rows_own_length(device: torch.device) -> None:
    """With two splits to share out, each has half of the keys that the row has, not of those that it might have."""
    if not interprets():
        pytest.skip("looks at how the interpreter's four processors are used")
    case = Case(counts=(1,), lengths=(1024,), kv_heads=1, dim=64)
    call = make_call(case, device, max_keys=100_000)
    made: list[Tensor] = []
    join = module._join_kernel
    try:

        class Noting:
            def __getitem__(self, grid: object) -> object:
                def launch(*arguments: object, **options: object) -> None:
                    made.append(arguments[1])  # type: ignore[arg-type]
                    join[grid](*arguments, **options)

                return launch

        module._join_kernel = Noting()  # type: ignore[assignment]
        run(case, call)
    finally:
        module._join_kernel = join
    assert made[0].shape[2] == 8
    assert (made[0][0, 0, :, 0] > -math.inf).all(), "every split has keys"
