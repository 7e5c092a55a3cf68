"""Weights in fewer bits: the model is the same one that torchao makes of it, served exactly, and told truthfully."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.mixtral import MixtralConfig

from model_worker.engine.engine import Engine
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.loader import LoadedModel, load
from model_worker.engine.forward.memory import tokens_beside, weight_bytes
from model_worker.engine.forward.quantized_linear import PackedLinear
from model_worker.engine.forward.quantizing import count_parameters, is_plain, quantize
from model_worker.engine.shared_layers.engine import SharedEngine
from model_worker.engine.shared_layers.model import load_shared
from model_worker.engine.types import Limits, RunRequest
from tests.support.engines import generate, run_all
from tests.support.pairs import CONFIGS, make_model, save_model

MODELS = Path(__file__).parents[2] / "models"
CPU = torch.device("cpu")
PROMPTS = [[5, 6, 7, 8], [100, 3, 40], [9, 9, 30, 31, 32, 33, 34]]


def loaded_tiny(kind: Any, dtype: torch.dtype = torch.bfloat16) -> LoadedModel:
    return load(str(MODELS / "tiny-llm"), dtype, CPU, quantized=kind)


def engine_of(loaded: LoadedModel, **limits: Any) -> Engine:
    return Engine(loaded, Limits(loaded.num_logits, 256, num_pages=64, page_size=16, **limits))


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("int8", torch.bfloat16), ("int8", torch.float32), ("int4", torch.bfloat16), ("int4", torch.float32),
        ("fp8", torch.float32),
    ],
)  # fmt: skip
def test_a_quantized_model_writes_what_its_own_code_writes(kind: Any, dtype: torch.dtype) -> None:
    own, loaded = loaded_tiny(kind, dtype), loaded_tiny(kind, dtype)
    engine = engine_of(loaded)
    assert engine.path.endswith(f"weights: {kind}, 42 of 43 matrices")
    results = run_all(engine, [RunRequest(str(i), 0, prompt, max_tokens=20) for i, prompt in enumerate(PROMPTS)])
    for prompt, result in zip(PROMPTS, results, strict=True):
        expected = generate(own.module, prompt, 20, own.num_logits)
        # `generate` ends at the stop token, a run that names none does not.
        assert result.tokens[: len(expected)] == expected


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("num_rows", [1, 3, 40])
def test_a_packed_product_is_that_of_torchaos_numbers(kind: Any, dtype: torch.dtype, num_rows: int) -> None:
    """Against torchao's own tensor, widened; the error is that of rounding, far below that of 4 bits."""
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, MappingType, PerGroup, quantize_

    config = {
        "int8": Int8WeightOnlyConfig(),
        "int4": IntxWeightOnlyConfig(
            weight_dtype=torch.int4, granularity=PerGroup(32), mapping_type=MappingType.ASYMMETRIC
        ),
    }
    model = AutoModelForCausalLM.from_config(CONFIGS["qwen2"], dtype=dtype)
    for part in model.modules():
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.normal_(part.bias)
    layer = model.model.layers[0].self_attn.q_proj
    wide = nn.Linear(layer.in_features, layer.out_features, dtype=dtype)
    wide.load_state_dict(layer.state_dict())
    quantize_(wide, config[kind])
    quantize(model, kind, CPU)
    packed = model.model.layers[0].self_attn.q_proj
    assert type(packed) is PackedLinear
    x = torch.randn(2, num_rows, layer.in_features, dtype=dtype)
    weight: Any = wide.weight
    expected = nn.functional.linear(x.double(), weight.dequantize().double(), wide.bias.double())
    with torch.inference_mode():
        difference = (packed(x).double() - expected).norm() / expected.norm()
    assert difference < (1e-2 if dtype == torch.bfloat16 else 1e-5)


def test_sizes_are_told_as_they_are() -> None:
    plain, eight, four = (loaded_tiny(kind) for kind in ("none", "int8", "int4"))
    total = count_parameters(plain.module)
    assert count_parameters(eight.module) == count_parameters(four.module) == total
    linear = sum(
        part.weight.numel() for name, part in plain.module.named_modules() if is_plain(part) and name != "lm_head"
    )
    rest = weight_bytes(plain.module) - 2 * linear
    scales = weight_bytes(eight.module) - linear - rest
    assert 0 < scales < 0.02 * linear, "a scale per output"
    assert weight_bytes(four.module) == rest + linear // 2 + 2 * 2 * linear // 64, "4 bits, and two numbers per group"


def test_embeddings_and_head_stay() -> None:
    module = loaded_tiny("int4").module
    assert is_plain(module.get_output_embeddings())
    assert module.get_input_embeddings().weight is module.get_output_embeddings().weight
    assert not any(is_plain(part) for part in module.model.modules())


def test_a_shape_that_no_kernel_takes_stays_with_torchao_or_as_it_was(tmp_path: Path) -> None:
    config = CONFIGS["llama"].__class__(**{**CONFIGS["llama"].to_dict(), "intermediate_size": 72})
    folder = tmp_path / "odd"
    make_model(config, 0).save_pretrained(folder)
    eight = load(str(folder), torch.float32, CPU, quantized="int8")
    assert eight.quantized == "int8, 14 of 15 matrices"
    assert type(eight.module.model.layers[0].mlp.up_proj) is nn.Linear
    assert not is_plain(eight.module.model.layers[0].mlp.up_proj)
    four = load(str(folder), torch.float32, CPU, quantized="int4")
    assert four.quantized == "int4, 8 of 15 matrices"
    assert is_plain(four.module.model.layers[0].mlp.up_proj)
    for loaded in (eight, four):
        run_all(engine_of(loaded), [RunRequest("s", 0, PROMPTS[0], max_tokens=4)])


def test_what_is_asked_for_beside_it_works_or_is_refused_by_name() -> None:
    loaded = loaded_tiny("int8")
    path = engine_of(loaded, matmul="native").path
    assert path == "native, matmul: native, weights: int8, 42 of 43 matrices", "the LM head's product is ours"
    with pytest.raises(UnsupportedModel, match=r"q_proj has quantized weights.*without --batch-invariant"):
        engine_of(loaded_tiny("int8"), batch_invariant=True)


@pytest.mark.parametrize("shallow", [True, False])
def test_both_roles_of_shared_layers_have_the_same_quantized_layers(shallow: bool) -> None:
    folder = str(MODELS / "tiny-shared-layers")
    loaded = load(folder, torch.bfloat16, CPU, quantized="int8")
    shared = load_shared(folder, loaded.module)
    engine = SharedEngine(loaded, shared, Limits(loaded.num_logits, 256, num_pages=64))  # compared at the start
    assert is_plain(shared.tail.gate), "the tail comes from a file of its own"
    layer = shared.slm.model.layers[0].mlp.up_proj
    assert layer is loaded.module.model.layers[0].mlp.up_proj
    assert type(layer) is PackedLinear
    assert len(run_all(engine, [RunRequest("s", 0, PROMPTS[0], max_tokens=6, shallow=shallow)])[0].tokens) == 6


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_compiled_steps_have_quantized_weights_too(kind: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever the number of rows: a prompt goes another way through an 8-bit product than a step of one row."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    own, loaded = loaded_tiny(kind), loaded_tiny(kind)
    engine = engine_of(loaded, compile="on")
    assert "native, compiled" in engine.path
    prompt = [(7 * index + 5) % 600 for index in range(40)]
    expected = generate(own.module, prompt, 12, own.num_logits)
    assert run_all(engine, [RunRequest("s", 0, prompt, max_tokens=12)])[0].tokens[: len(expected)] == expected
    plain = engine_of(loaded_tiny("none"), compile="auto").path
    assert "no compiled step is kept for it" in plain, "the code is for these weights alone"


def test_a_dtype_or_a_model_that_it_is_not_for_is_refused(tmp_path: Path) -> None:
    folder = str(save_model(tmp_path / "llama", "llama", 0))
    with pytest.raises(UnsupportedModel, match=r"--quantize int8 is for bfloat16 and float32, not for torch.float64"):
        load(folder, torch.float64, CPU, quantized="int8")
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    experts = MixtralConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, num_local_experts=8)
    model = AutoModelForCausalLM.from_config(experts, dtype=torch.float32)
    with pytest.raises(UnsupportedModel, match=r"MixtralForCausalLM: --quantize int8 reaches \d+% .*experts"):
        quantize(model, "int8", CPU)


def test_without_torchao_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(UnsupportedModel, match=r"needs torchao, which is not installed.*pip install 'rstitch"):
        loaded_tiny("int8")


def test_a_device_that_a_format_does_not_run_on_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise NotImplementedError("no such kernel")

    monkeypatch.setattr("torchao.quantization.quantize_", fails)
    with pytest.raises(
        UnsupportedModel, match=r"--quantize fp8 does not run on cpu: NotImplementedError: no such kern"
    ):
        loaded_tiny("fp8")


def test_beside_a_quantized_model_there_is_more_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device whose memory is known: what either worker finds is what the other does."""
    small, large = str(MODELS / "tiny-slm"), str(MODELS / "tiny-llm")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 12_000_000))

    def tokens(model: str, kind: Any, other: str, other_kind: Any) -> int:
        loaded = load(model, torch.bfloat16, CPU, quantized=kind)
        return tokens_beside(replace(loaded, device=torch.device("cuda:0")), other, other_kind)

    plain, fewer = tokens(small, "none", large, "none"), tokens(small, "none", large, "int8")
    assert plain < fewer
    # The meta device counts no scales of the other's: a worker that holds them finds a little less.
    assert 0.95 * fewer < tokens(large, "int8", small, "none") <= fewer
