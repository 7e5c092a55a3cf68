"""A drawn token is that of the whole row sorted, whatever the distribution and the parameters."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor

from model_worker.engine.forward import inversion
from model_worker.engine.forward.inversion import draw
from model_worker.engine.types import Sampling

VOCAB_SIZE = 400
TINY = [0.0, 2.0**-53, 1e-9, 0.5, 1 - 2.0**-53]


def sorted_whole(logits: Tensor, sampling: Sampling, u: float) -> int:
    """One row, step by step: what a draw has been since there are draws."""
    scaled = (logits.double() - logits.amax().double()) / sampling.temperature
    p, ids = torch.softmax(scaled[None], dim=-1).sort(dim=-1, descending=True, stable=True)
    cumulative = p.cumsum(-1)
    keep = (torch.arange(len(logits)) < (sampling.top_k or len(logits))) & (cumulative - p < sampling.top_p)
    mass = torch.where(keep, p, 0.0).cumsum(-1)
    chosen = torch.searchsorted(mass, u * mass[:, -1:], right=True)
    return int(ids[0, min(int(chosen), max(0, int(keep.sum()) - 1))])


def rows_of_all_kinds(rng: random.Random, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Flat, steep, with ties, with what is impossible, with what is no distribution."""
    logits = torch.randn(12, VOCAB_SIZE, generator=generator) * 10 ** rng.uniform(-3, 2)
    logits[1] = logits[1].round()  # many are equal
    logits[2] = 0.0
    logits[3, rng.randrange(VOCAB_SIZE) :] = -math.inf
    logits[4, 1:] = -math.inf
    logits[5, rng.randrange(VOCAB_SIZE)] = math.nan
    logits[6, rng.randrange(VOCAB_SIZE)] = math.inf
    logits[7] = -math.inf
    logits[8, 100:] = logits[8, :100].min()  # a boundary falls among equal ones
    logits[9, :3] = 50.0
    return logits.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("first", [1, 7, 64, VOCAB_SIZE - 1, VOCAB_SIZE, 2048])
def test_a_token_is_that_of_the_row_sorted_as_a_whole(first: int, dtype: torch.dtype) -> None:
    rng, generator = random.Random(first), torch.Generator().manual_seed(first)
    for _ in range(12):
        logits = rows_of_all_kinds(rng, generator, dtype)
        rows = [rng.randrange(len(logits)) for _ in range(20)]
        samplings = [
            Sampling(
                temperature=rng.choice([1e-12, 1e-3, 0.6, 1.0, 1.0, 5.0, 1e6]),
                top_p=rng.choice([1e-9, 0.1, 0.5, 0.95, 1 - 1e-12, 1.0, 1.0]),
                top_k=rng.choice([0, 0, 0, 1, 2, first, first + 1, VOCAB_SIZE, 10 * VOCAB_SIZE]),
            )
            for _ in rows
        ]
        draws = [rng.choice([*TINY, rng.random(), rng.random(), rng.random()]) for _ in rows]
        tokens, logprobs = draw(logits, rows, samplings, draws, first)
        expected = [sorted_whole(logits[row], s, u) for row, s, u in zip(rows, samplings, draws, strict=True)]
        assert tokens == expected
        exact = logits.log_softmax(-1, torch.promote_types(dtype, torch.float32))
        assert logprobs == pytest.approx([float(exact[r, t]) for r, t in zip(rows, tokens, strict=True)], nan_ok=True)


def test_every_token_of_the_nucleus_is_drawn_by_its_share() -> None:
    logits = torch.tensor([0.1, 0.4, 0.2, 0.3]).log()[None].repeat(1000, 1)
    draws = [(index + 0.5) / 1000 for index in range(1000)]
    tokens, _ = draw(logits, range(1000), [Sampling(1.0, top_p=0.85)] * 1000, draws)
    counts = [tokens.count(token) for token in range(4)]
    assert counts == pytest.approx([0, 1000 * 4 / 9, 1000 * 2 / 9, 1000 * 3 / 9], abs=1)


def test_rows_are_sorted_as_a_whole_only_where_the_first_tokens_do_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    sorted_rows: list[int] = []
    real = inversion._sort_group
    monkeypatch.setattr(inversion, "_sort_group", lambda own, n: (sorted_rows.append(len(own)), real(own, n))[1])
    logits = torch.randn(16, 20_000, generator=torch.Generator().manual_seed(0)) * 4
    logits[3] = 0.0
    for sampling in (Sampling(1.0), Sampling(0.7, top_p=0.95), Sampling(1.0, top_k=50)):
        draw(logits, range(16), [sampling] * 16, [0.5] * 16)
    assert sorted_rows == [1, 1, 1], "all but the row whose tokens are all alike"
