"""A whole engine on the kernels, in float32, against transformers' own `generate`."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from model_worker.engine.engine import Engine
from model_worker.engine.forward import graph_shapes
from model_worker.engine.forward.attention_tables import Tables
from model_worker.engine.forward.attention_triton import TritonAttention
from model_worker.engine.forward.kv_cache import KvCache
from model_worker.engine.forward.loader import adopt
from model_worker.engine.types import Limits, RunRequest
from tests.support.engines import generate, run_all
from tests.support.pairs import CONFIGS, VOCAB_SIZE, make_model
from tests.support.ranks import ranked_engine
from tests.support.windowed import WINDOW, WINDOWED

PROMPTS = [[7, 8, 9, 10, 11], [20, 21, 22] * 3, [50]]
CONTEXT = 16  # tokens: the interpreter takes a millisecond for each program of a kernel


PATHS = [
    (architecture, graphs, fused, 16 if graphs == "off" else 256)
    for architecture in ("llama", "qwen3", "gpt_neox", "gemma2")
    for graphs in ("off", "on")
    for fused in ("off", "on")
    if (architecture, fused) != ("gpt_neox", "on")  # no part of it can be
]


@pytest.mark.soak
@pytest.mark.parametrize(("architecture", "graphs", "fused", "page_size"), PATHS)
def test_decoding_equals_transformers_generate(
    architecture: str, graphs: Any, fused: Any, page_size: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device.type == "cpu":  # few shapes: each is run once where it would be captured
        monkeypatch.setattr(graph_shapes, "DECODE_SIZES", (4,))
        monkeypatch.setattr(graph_shapes, "EXTEND_SIZES", (8,))
    model = make_model(CONFIGS[architecture], 0).to(torch.float32)
    limits = Limits(
        VOCAB_SIZE, CONTEXT, num_pages=256 // page_size * 3, page_size=page_size, max_batch_tokens=8,
        attention="triton", graphs=graphs, fused=fused,
    )  # fmt: skip
    engine = Engine(adopt(make_model(CONFIGS[architecture], 0).to(device, torch.float32), CONTEXT), limits)
    assert engine.path.startswith("triton with graphs" if graphs == "on" else "triton")
    assert ("fused: " in engine.path) is (fused == "on")
    requests = [RunRequest(f"s{i}", 0, prompt, max_tokens=3) for i, prompt in enumerate(PROMPTS)]
    for prompt, result in zip(PROMPTS, run_all(engine, requests), strict=True):
        assert result.tokens == generate(model, prompt, 3)
    assert (engine.counters.num_graph_steps > 0) is (graphs == "on")


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("graphs", ["off", "on"])
@pytest.mark.parametrize("family", ["gemma3", "gpt_oss", "llama4"])
def test_windows_sinks_and_chunks_equal_transformers_generate(
    family: str, graphs: Any, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device.type == "cpu":
        monkeypatch.setattr(graph_shapes, "DECODE_SIZES", (4,))
        monkeypatch.setattr(graph_shapes, "EXTEND_SIZES", (8,))
    model, context = make_model(WINDOWED[family], 0).to(torch.float32), 3 * WINDOW
    limits = Limits(
        VOCAB_SIZE, context, num_pages=12, page_size=16, max_batch_tokens=8, attention="triton", graphs=graphs
    )
    engine = Engine(adopt(copy.deepcopy(model).to(device), context), limits)
    prompts = [[7, 8, 9], list(range(30, 30 + WINDOW + 10))]
    requests = [RunRequest(f"s{i}", 0, prompt, max_tokens=4) for i, prompt in enumerate(prompts)]
    for prompt, result in zip(prompts, run_all(engine, requests), strict=True):
        assert result.tokens == generate(model, prompt, 4)


@pytest.mark.parametrize(
    ("architecture", "told"),
    [
        ("llama", "5 norms, 2 attentions, 2 MLPs"),
        ("qwen2", "5 norms, 2 attentions, 2 MLPs"),
        ("qwen3", "5 norms, 2 attentions, 2 MLPs"),
        pytest.param("gemma", "5 norms, 2 attentions, 2 MLPs", marks=pytest.mark.soak),
        ("gemma2", "9 norms, 2 attentions, 2 MLPs"),
    ],
)
def test_what_is_fused_gives_what_the_parts_gave(architecture: str, told: str, device: torch.device) -> None:
    """Layer by layer, on inputs that nothing was chosen by; and the model's own forwards come back."""
    from model_worker.engine.forward.fusing import fuse
    from model_worker.engine.forward.replaced import restore_forwards

    torch.manual_seed(5)
    model = make_model(CONFIGS[architecture], 0).to(device, torch.float32)
    for name, parameter in model.named_parameters():
        if "norm" in name:  # as made they are all ones, or zeros
            parameter.data = parameter.data + torch.randn_like(parameter) * 0.3
    loaded = adopt(model, 32)
    cache = KvCache(loaded.shapes, 2, 16, loaded.dtype, loaded.device)
    own = dict(model.named_modules())
    attention = TritonAttention(cache, 32)
    assert str(fuse(model, attention)) == told
    ids = torch.tensor([[9, 8, 7, 6]], device=device)
    ours = at_tables(model, attention, ids)
    restore_forwards(model)
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        expected = model(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(ours, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)
    assert all("forward" not in part.__dict__ for part in own.values())


def at_tables(model: Any, attention: TritonAttention, ids: Tensor) -> Tensor:
    """The logits of one row that begins at the first slot."""
    count, device = ids.shape[1], ids.device

    def ints(*values: int) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    slots = torch.arange(count, device=device)
    attention.use(Tables(slots, ints(0, count), ints(count), ints(0)[None], count, count))
    with torch.inference_mode():
        logits: Tensor = model(input_ids=ids, position_ids=slots[None], use_cache=False).logits
    return logits


@pytest.mark.parametrize(
    "activation", ["gelu", *(pytest.param(name, marks=pytest.mark.soak) for name in ("quick_gelu", "relu"))]
)
def test_another_activation_is_no_fused_one_in_16_bits_either(activation: str, device: torch.device) -> None:
    from transformers.activations import ACT2FN

    from model_worker.engine.forward.fusing import fuse

    model = make_model(CONFIGS["gemma2"], 0).to(device, torch.bfloat16)
    for layer in model.base_model.layers:
        layer.mlp.act_fn = ACT2FN[activation]
    loaded = adopt(model, 32)
    attention = TritonAttention(KvCache(loaded.shapes, 2, 16, loaded.dtype, loaded.device), 32)
    assert fuse(model, attention).mlps == 0


def test_queries_that_are_scaled_by_their_position_are_left_alone(device: torch.device) -> None:
    """As Ministral 3 does from some position on, far beyond the first few tokens."""
    from model_worker.engine.forward.fusing import fuse

    model = make_model(CONFIGS["llama"], 0).to(device, torch.float32)
    first = model.base_model.layers[0].self_attn
    projected = first.q_proj.forward

    positions: list[Tensor] = []

    def far_ones_larger(x: Tensor) -> Tensor:
        return torch.where((positions[-1] >= 16)[..., None], 1.5, 1.0) * projected(x)

    model.base_model.rotary_emb.register_forward_pre_hook(
        lambda _, given, keywords: positions.append(given[1] if len(given) > 1 else keywords["position_ids"]),
        with_kwargs=True,
    )
    first.q_proj.forward = far_ones_larger
    loaded = adopt(model, 32)
    attention = TritonAttention(KvCache(loaded.shapes, 2, 16, loaded.dtype, loaded.device), 32)
    assert fuse(model, attention).attentions == 1


def test_a_part_that_does_otherwise_keeps_its_forward(device: torch.device) -> None:
    """One layer's activation and another's norm are changed: these two are left alone, all others are not."""
    from model_worker.engine.forward.fusing import fuse

    model = make_model(CONFIGS["llama"], 0).to(device, torch.float32)
    layers = model.base_model.layers
    layers[0].mlp.act_fn = torch.nn.ReLU()
    layers[1].input_layernorm.forward = lambda x: x * 0.5
    loaded = adopt(model, 32)
    cache = KvCache(loaded.shapes, 2, 16, loaded.dtype, loaded.device)
    assert str(fuse(model, TritonAttention(cache, 32))) == "4 norms, 2 attentions, 1 MLPs"


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_a_rank_is_fused_like_a_whole_model(
    architecture: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers whose outputs are added up among ranks are called by the fused parts as by the model's own."""
    if device.type != "cpu":
        pytest.skip("ranks that are threads add up on the CPU")
    from triton.runtime.interpreter import GridExecutor

    monkeypatch.setattr(graph_shapes, "DECODE_SIZES", (4,))
    monkeypatch.setattr(graph_shapes, "EXTEND_SIZES", (8,))
    one_at_a_time, run = threading.Lock(), GridExecutor.__call__  # the interpreter changes its language while it runs

    def locked(*args: Any, **kwargs: Any) -> Any:
        with one_at_a_time:
            return run(*args, **kwargs)

    monkeypatch.setattr(GridExecutor, "__call__", locked)
    model = make_model(CONFIGS[architecture], 0).to(torch.float32)
    limits: dict[str, Any] = {"num_pages": 6, "page_size": 16, "max_batch_tokens": 8, "context_length": CONTEXT}
    requests = [RunRequest(f"s{i}", 0, prompt, max_tokens=3) for i, prompt in enumerate(PROMPTS)]
    with ranked_engine(model, 2, attention="triton", graphs="on", fused="on", **limits) as engine:
        assert engine.path == "triton with graphs, fused: 5 norms, 2 attentions, 2 MLPs, tp: 2"
        results = run_all(engine, requests)
    for prompt, result in zip(PROMPTS, results, strict=True):
        assert result.tokens == generate(model, prompt, 3)
