"""The CUDA path's bookkeeping on a CPU: block tables and padding to captured shapes.

The kernel is a naive one with `varlen_attn`'s signature, a graph is its function run again; what is left to a GPU
(tests marked gpu) is the kernel and the capture themselves. (Kernels of our own: test_kernels.py.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from model_worker.engine.engine import Engine
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward import attention_varlen, runner
from model_worker.engine.forward.graphs import DECODE_SIZES
from model_worker.engine.forward.loader import adopt
from model_worker.engine.measure import measure_steps
from model_worker.engine.types import Limits, Returns, RunRequest, Sampling
from tests.support.engines import generate, make_engine, run_all, run_one
from tests.support.pairs import CONFIGS, VOCAB_SIZE, make_model


def naive_varlen_attn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ends: Tensor,
    ends_of_keys: None,
    max_queries: int,
    max_keys: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
    seqused_k: Tensor,
    block_table: Tensor,
) -> Tensor:
    assert window_size == (-1, 0) if max_queries > 1 else (-1, -1)
    out = torch.full((*query.shape[:2], value.shape[-1]), float("nan"), dtype=query.dtype)
    for row in range(len(ends) - 1):
        begin, end, length = int(ends[row]), int(ends[row + 1]), int(seqused_k[row])
        if begin == end:
            continue
        assert end - begin <= max_queries
        assert length <= max_keys
        pages = block_table[row, : -(-length // key.shape[1])].long()
        k, v = key[pages].flatten(0, 1)[:length], value[pages].flatten(0, 1)[:length]
        positions = torch.arange(length - (end - begin), length)
        mask = torch.arange(length)[None] <= positions[:, None]
        out[begin:end] = torch.nn.functional.scaled_dot_product_attention(
            query[begin:end].transpose(0, 1)[None],
            k.transpose(0, 1)[None],
            v.transpose(0, 1)[None],
            attn_mask=mask,
            scale=scale,
            enable_gqa=enable_gqa,
        )[0].transpose(0, 1)
    return out


@pytest.fixture(autouse=True)
def _naive_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_varlen, "varlen_attn", naive_varlen_attn)


PROMPTS = [[7, 8, 9, 10, 11], [20, 21, 22] * 9, [50], list(range(30, 100)), [5, 250, 17, 130]]


@pytest.mark.parametrize("graphs", ["off", "on"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt_neox"])
def test_varlen_decoding_equals_transformers_generate(architecture: str, graphs: str) -> None:
    engine, model = make_engine(architecture, max_batch_tokens=24, attention="varlen", graphs=graphs)
    requests = [RunRequest(f"s{i}", 0, prompt, max_tokens=25) for i, prompt in enumerate(PROMPTS)]
    for prompt, result in zip(PROMPTS, run_all(engine, requests), strict=True):
        assert result.tokens == generate(model, prompt, 25)
    counters = engine.counters
    assert counters.num_graph_steps + counters.num_graph_misses == (counters.num_steps if graphs == "on" else 0)
    assert (counters.num_graph_steps > 0) is (graphs == "on")


def test_the_path_that_steps_take_is_told() -> None:
    for wished, path in (("auto", "in-place"), ("gather", "gather"), ("varlen", "varlen")):
        assert make_engine(attention=wished)[0].path == path
    assert make_engine(attention="varlen", graphs="on")[0].path == "varlen with graphs"


def test_measuring_at_the_start_leaves_no_graph_steps_behind() -> None:
    engine, _ = make_engine(attention="varlen", graphs="on")
    measure_steps(engine, budget_s=1e-6)
    run_one(engine, RunRequest("s", 0, PROMPTS[0], max_tokens=3))
    assert engine.counters.num_graph_steps == engine.counters.num_steps == 3
    assert engine.counters.num_graph_misses == 0


def test_a_model_that_cannot_be_captured_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def capture(body: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(runner, "repeat", capture)
    with pytest.raises(UnsupportedModel, match=r"not permitted when stream is capturing.*--graphs off"):
        make_engine(attention="varlen", graphs="on")


def test_a_batch_beyond_every_graph_is_counted_and_right() -> None:
    engine, model = make_engine(attention="varlen", graphs="on")
    prompt = [(3 * index) % VOCAB_SIZE for index in range(DECODE_SIZES[-1] + 6)]
    result = run_one(engine, RunRequest("s", 0, prompt, max_tokens=8))
    assert result.tokens == generate(model, prompt, 8)
    assert engine.counters.num_graph_misses == 1


def test_sampling_and_proposals_are_the_same_with_graphs_and_without() -> None:
    found: list[Any] = []
    for graphs in ("off", "on"):
        engine, _ = make_engine("qwen3", attention="varlen", graphs=graphs)
        sampling = Sampling(temperature=0.8, top_p=0.9, seed=5)
        decoded = run_one(engine, RunRequest("a", 0, PROMPTS[0], sampling, max_tokens=20))
        step = run_one(engine, RunRequest("b", 0, PROMPTS[0], returns=Returns(5, True)))
        proposal = step.finished.proposal
        found.append((decoded.tokens, proposal.token, [token for token, _ in proposal.top_logits]))
        hidden = torch.frombuffer(bytearray(proposal.hidden_state), dtype=torch.float32)
        found[-1] += (hidden.round(decimals=4).tolist(),)
    assert found[0] == found[1]


def test_what_the_kernel_cannot_do_is_refused_by_name_or_done_otherwise() -> None:
    model = make_model(CONFIGS["gemma2"], 0)
    with pytest.raises(UnsupportedModel, match="caps no scores"):
        Engine(adopt(model), Limits(VOCAB_SIZE, 512, num_pages=64, attention="varlen"))
    with pytest.raises(UnsupportedModel, match="graphs need attention through block tables"):
        Engine(adopt(model), Limits(VOCAB_SIZE, 512, num_pages=64, graphs="on"))
    Engine(adopt(model), Limits(VOCAB_SIZE, 512, num_pages=64))
