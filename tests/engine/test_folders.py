"""A folder whose weights are not those of its config is refused by name; nothing that transformers reports is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, TorchAoConfig

from model_worker.engine.engine import Engine
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.folder_checks import check_report, not_loadable
from model_worker.engine.forward.loader import LoadedModel, load
from model_worker.engine.forward.memory import weight_bytes
from model_worker.engine.types import Limits, RunRequest
from tests.support.engines import generate, run_one
from tests.support.pairs import save_model

MODELS = Path(__file__).parents[2] / "models"
CPU = torch.device("cpu")
PROMPT = [5, 6, 7, 8]


def loaded(folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> LoadedModel:
    return load(str(folder), dtype, CPU, **options)


def changed_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def changed_config(folder: Path, **facts: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | facts))


def test_biases_that_the_config_has_switched_off_are_named(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "llama", "llama", 0)

    def add_biases(weights: dict[str, torch.Tensor]) -> None:
        for layer in range(2):
            for name, size in (("q", 32), ("k", 16), ("v", 16)):
                weights[f"model.layers.{layer}.self_attn.{name}_proj.bias"] = torch.ones(size)

    changed_weights(folder, add_biases)
    with pytest.raises(UnsupportedModel, match=r"6 of its weights would be left out, such as model\.layers\.0.*bias"):
        loaded(folder)
    changed_config(folder, attention_bias=True)
    with pytest.raises(
        UnsupportedModel, match=r"weights are missing, such as model\.layers\.0\.self_attn\.o_proj\.bias"
    ):
        loaded(folder)


def test_a_weight_that_no_config_has_a_place_for_is_named(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "llama", "llama", 0)
    changed_weights(folder, lambda weights: weights.update({"model.layers.0.adapter.weight": torch.ones(4, 4)}))
    with pytest.raises(
        UnsupportedModel, match=r"1 of its weights would be left out, such as model\.layers\.0\.adapter"
    ):
        loaded(folder)


def test_rotary_tables_of_old_files_do_no_harm(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "llama", "llama", 0)
    old = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(4) for layer in range(2)}
    changed_weights(folder, lambda weights: weights.update(old))
    loaded(folder)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("is_model", [True, False])
def test_an_adapter_is_not_served_without_what_it_adds(tmp_path: Path, name: str, is_model: bool) -> None:
    folder = tmp_path / "model"
    if is_model:
        save_model(folder, "llama", 0)
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("{}")
    with pytest.raises(UnsupportedModel, match=rf"it holds an adapter \({name}\).*merge"):
        loaded(folder)


@pytest.mark.parametrize(
    ("reported", "words"),
    [
        ({"missing_keys": {"b", "a"}}, "2 of its weights are missing, such as a"),
        ({"mismatched_keys": {("a", (2, 3), (4, 3))}}, r"such as a: \(2, 3\) instead of \(4, 3\)"),
        ({"unexpected_keys": {"a"}}, "1 of its weights would be left out, such as a"),
        ({"error_msgs": ["it broke"]}, "it broke"),
    ],
)
def test_each_part_of_a_report_is_a_refusal(reported: dict[str, Any], words: str) -> None:
    nothing: dict[str, Any] = {
        "missing_keys": set(),
        "mismatched_keys": set(),
        "unexpected_keys": set(),
        "error_msgs": [],
    }
    check_report("m", nothing)
    with pytest.raises(UnsupportedModel, match=words):
        check_report("m", nothing | reported)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rounds", [False, True])
def test_a_folder_that_torchao_has_written_is_served(tmp_path: Path, dtype: torch.dtype, rounds: bool) -> None:
    """Also one whose products round what they multiply to 8 bits, so that the order of a sum is seen in the logits."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig

    config = TorchAoConfig(Int8DynamicActivationInt8WeightConfig() if rounds else Int8WeightOnlyConfig())
    tiny = MODELS / "tiny-llm"
    AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.bfloat16, quantization_config=config).save_pretrained(
        tmp_path
    )
    found = loaded(tmp_path, dtype)
    assert found.quantized == "torchao, as its folder has them"
    assert weight_bytes(found.module) < 0.6 * weight_bytes(loaded(tiny, dtype).module)
    engine = Engine(found, Limits(found.num_logits, 256, num_pages=64))
    assert engine.path.endswith("weights: torchao, as its folder has them")
    tokens = run_one(engine, RunRequest("s", 0, PROMPT, max_tokens=10)).tokens
    if not rounds:
        expected = generate(loaded(tmp_path, dtype).module, PROMPT, 10, found.num_logits)
        assert tokens[: len(expected)] == expected
    with pytest.raises(UnsupportedModel, match=r"are quantized already \(torchao\); leave --quantize int8 out"):
        loaded(tmp_path, dtype, quantized="int8")


# What transformers asks for first, and which of it is not among this project's packages.
@pytest.mark.parametrize(
    ("facts", "package"),
    [
        ({"quant_method": "awq", "bits": 4}, "gptqmodel"),
        ({"quant_method": "gptq", "bits": 4}, "optimum"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "accelerate|bitsandbytes"),
        ({"load_in_8bit": True}, "accelerate|bitsandbytes"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "compressed.tensors"),
        ({"quant_method": "hqq", "quant_config": {}}, "hqq|HQQ"),
        ({"quant_method": "fp8"}, "accelerate"),
        ({"quant_method": "mxfp4"}, "[Aa]ccelerate"),
    ],
)
def test_a_format_whose_package_is_not_installed_names_it(tmp_path: Path, facts: dict[str, Any], package: str) -> None:
    folder = save_model(tmp_path / "llama", "llama", 0)
    changed_config(folder, quantization_config=facts)
    with pytest.raises(UnsupportedModel, match=rf"its weights are quantized \(.*\).*({package}).*16 bits") as refused:
        loaded(folder)
    assert "\n" not in str(refused.value)


def test_an_unknown_format_is_refused_and_not_read_as_none(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "llama", "llama", 0)
    changed_config(folder, quantization_config={"quant_method": "half-byte"})
    with pytest.raises(UnsupportedModel, match=r"quantization_config\.quant_method in its config\.json is half-byte"):
        loaded(folder)
    changed_config(folder, quantization_config={"bits": 4})
    with pytest.raises(UnsupportedModel, match=r"quant_method in its config\.json is missing; transformers knows aqlm"):
        loaded(folder)


def test_what_else_a_format_cannot_do_here_is_told_in_a_line() -> None:
    said = str(not_loadable("m", "gptq", RuntimeError("GPU is required\nto run it")))
    assert said.startswith(
        "m: its weights are quantized (gptq), which transformers does not load here: GPU is required to"
    )
