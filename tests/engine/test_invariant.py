"""`--batch-invariant`: a token gets the same bits alone and in any batch, or the engine is not made."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model_worker.engine.engine import Engine
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward import invariant
from model_worker.engine.types import GREEDY, RunRequest, Sampling
from tests.support.engines import Result, make_engine_of, run_all, run_one
from tests.support.pairs import CONFIGS, VOCAB_SIZE, make_model

TOKENS = 20
ARCHITECTURES = [*((name, torch.bfloat16) for name in CONFIGS), ("llama", torch.float32), ("gemma2", torch.float64)]


@pytest.fixture(params=[1, 3])
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def make_prompts(count: int, vocab_size: int = VOCAB_SIZE) -> list[list[int]]:
    rng = random.Random(3)
    return [[rng.randrange(5, vocab_size) for _ in range(rng.randrange(1, 70))] for _ in range(count)]


def requests(prompts: list[list[int]], sampling: Sampling = GREEDY) -> list[RunRequest]:
    return [RunRequest(f"s{i}", 0, prompt, sampling, max_tokens=TOKENS) for i, prompt in enumerate(prompts)]


def written(results: list[Result]) -> list[tuple[list[int], list[float]]]:
    """Tokens and entropies: these show a bit that no token shows."""
    return [(result.tokens, result.entropies) for result in results]


def make_invariant_engine(architecture: str, dtype: torch.dtype, **limits: Any) -> Engine:
    return make_engine_of(make_model(CONFIGS[architecture], 0).to(dtype), batch_invariant=True, **limits)


@pytest.mark.parametrize(("architecture", "dtype"), ARCHITECTURES)
def test_alone_in_a_batch_and_in_chunks_every_bit_is_the_same(architecture: str, dtype: torch.dtype) -> None:
    prompts = make_prompts(4)
    engine = make_invariant_engine(architecture, dtype)
    alone = written([run_one(engine, request) for request in requests(prompts)])
    assert written(run_all(engine, requests(prompts))) == alone
    otherwise = make_invariant_engine(architecture, dtype, max_batch_tokens=11, attention="gather", page_size=8)
    assert written(run_all(otherwise, requests(prompts))) == alone


@pytest.mark.usefixtures("_threads")
def test_the_laws_hold_with_threads() -> None:
    """The kernels share work among threads by the size of the batch, and buffers begin elsewhere for each thread."""
    prompts, sampling = make_prompts(5), Sampling(temperature=0.8, seed=4)
    for dtype in (torch.bfloat16, torch.float32):
        engine = make_invariant_engine("gpt_neox", dtype)
        alone = written([run_one(engine, request) for request in requests(prompts, sampling)])
        assert written(run_all(engine, requests(prompts, sampling))) == alone


def test_sessions_whose_pages_are_scattered_write_the_same() -> None:
    prompts = [list(range(30, 100)), list(range(100, 150))]
    alone = written(run_all(make_invariant_engine("llama", torch.bfloat16), requests(prompts)))
    # Of forty short sessions every second is closed: what is left free are holes.
    engine = make_invariant_engine("llama", torch.bfloat16, page_size=2, num_pages=200)
    run_all(engine, [RunRequest(f"short {i}", 0, [7] * 9, max_tokens=1) for i in range(40)])
    for index in range(0, 40, 2):
        engine.close_session(f"short {index}")
    assert written(run_all(engine, requests(prompts))) == alone
    assert any(not session.contiguous for session in engine._table)


def test_a_verified_draft_is_what_decoding_writes() -> None:
    (prompt,) = make_prompts(1)
    engine = make_invariant_engine("qwen3", torch.bfloat16)
    (decoded,) = run_all(engine, requests([prompt]))
    for length in (1, 4, 9):
        draft = decoded.tokens[:length]
        result = run_one(engine, RunRequest(f"d{length}", 0, prompt, max_tokens=TOKENS, draft=draft))
        count = length + 1
        assert (result.tokens, result.entropies) == (decoded.tokens[:count], decoded.entropies[:count])


def test_the_entropy_over_a_large_vocabulary_does_not_depend_on_the_number_of_rows() -> None:
    from model_worker.engine.forward.sampling import measure_on_host

    logits = 4 * torch.randn(3, 150_001, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        together = measure_on_host(invariant.at_least_two(logits))
        alone = measure_on_host(invariant.at_least_two(logits[1:2]))
    finally:
        torch.set_num_threads(before)
    assert alone.entropies[0] == together.entropies[1]


def test_the_counts_of_rows_that_agree_are_found_and_no_others_are_used() -> None:
    weight = torch.randn(7, 16, generator=torch.Generator().manual_seed(1))

    def product(x: Tensor) -> Tensor:  # another order of sums for fewer than 4 rows and for odd numbers
        width = 3 if len(x) < 4 or len(x) % 2 else 16
        return sum((piece @ other.T for piece, other in zip(x.split(width, 1), weight.split(width, 1), strict=True)))  # type: ignore[return-value]

    assert set(invariant.agreeing_counts(product, weight)) <= {4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32}

    def by_place(x: Tensor) -> Tensor:
        return product(x) + torch.arange(len(x))[:, None]

    assert invariant.agreeing_counts(by_place, weight) == (1,)


def test_what_the_check_finds_is_refused_with_the_remedy() -> None:
    """A norm over the batch: whatever stands beside a token gets into it."""
    model = make_model(CONFIGS["llama"], 0)
    own = model.model.norm.forward
    model.model.norm.forward = lambda x: own(x) * (1 + 1e-9 * x.shape[1])
    with pytest.raises(UnsupportedModel, match=r"batch-invariant does not hold here.*differ by .* start without"):
        make_engine_of(model, batch_invariant=True)


def test_a_product_that_is_no_linear_layer_is_refused_by_name() -> None:
    model = make_model(CONFIGS["llama"], 0)
    model.model.layers[0].mlp.experts = nn.ParameterDict({"gate_up_proj": nn.Parameter(torch.zeros(2, 3, 4))})
    with pytest.raises(
        UnsupportedModel, match=r"experts.gate_up_proj is no plain nn.Linear.*without --batch-invariant"
    ):
        make_engine_of(model, batch_invariant=True)


@pytest.mark.parametrize("name", ["varlen", "native"])
def test_attention_that_cannot_be_invariant_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"{name} attention is not batch-invariant; leave --attention at auto"):
        make_invariant_engine("llama", torch.bfloat16, attention=name)


@pytest.mark.parametrize("name", ["compile", "fused"])
def test_steps_that_sum_in_an_order_of_their_own_are_refused(name: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"--{name} on is not batch-invariant; leave it at auto"):
        make_invariant_engine("llama", torch.bfloat16, **{name: "on"})


@pytest.mark.parametrize("architecture", ["llama", "gemma"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_by_row_equal_the_models_own(architecture: str, dtype: torch.dtype) -> None:
    """For CUDA, where torch's mean depends on the number of rows."""
    norm = make_model(CONFIGS[architecture], 0).model.norm.to(dtype)
    torch.manual_seed(2)
    nn.init.normal_(norm.weight)
    x = torch.randn(5, norm.weight.shape[0]).to(dtype)
    with torch.inference_mode():
        torch.testing.assert_close(invariant.row_norm(norm, "norm")(x), norm(x))
    norm.forward = lambda x: x
    with pytest.raises(UnsupportedModel, match="no RMSNorm of a known form"):
        invariant.row_norm(norm, "norm")
