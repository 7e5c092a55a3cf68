"""What cannot be served exactly is refused at start, by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.models.bloom import BloomConfig
from transformers.models.llama import LlamaConfig
from transformers.models.recurrent_gemma import RecurrentGemmaConfig

from model_worker.engine.engine import Engine
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward import loader
from model_worker.engine.forward.loader import adopt, load
from model_worker.engine.types import Limits
from tests.support.pairs import save_model

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


def test_weights_that_are_a_pickle_are_not_read(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", "llama", seed=0)
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(UnsupportedModel, match="safetensors"):
        load(str(folder), torch.float32, torch.device("cpu"))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            RecurrentGemmaConfig(**{**SIZES, "num_hidden_layers": 3}, head_dim=8, lru_width=32),
            ["RecurrentGemmaForCausalLM", "layers [0, 1] have neither attention"],
        ),
        (BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4), ["BloomForCausalLM", "AttentionInterface"]),
    ],
)
def test_what_is_not_exact_is_refused_by_name(config: Any, words: list[str]) -> None:
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with pytest.raises(UnsupportedModel) as caught:
        adopt(model, 0 if hasattr(config, "max_position_embeddings") else 128)
    for word in words:
        assert word in str(caught.value)


def test_the_shortest_context_serves_and_a_shorter_one_is_refused() -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES), dtype=torch.float32)
    Engine(adopt(model, 2), Limits(vocab_size=64, context_length=2, num_pages=1))
    with pytest.raises(UnsupportedModel, match="--context-length"):
        Engine(adopt(model, 1), Limits(vocab_size=64, context_length=1, num_pages=1))


def test_a_model_whose_logits_come_out_wrong_is_refused() -> None:
    """The last line of defence: the engine's own path is compared with the model's at start."""
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES), dtype=torch.float32)
    loaded = adopt(model)
    inner = model.model.forward
    calls = []

    def differs_when_called_again(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        output = inner(*args, **kwargs)
        output.last_hidden_state = output.last_hidden_state + len(calls)
        return output

    model.model.forward = differs_when_called_again
    with pytest.raises(UnsupportedModel, match="differ"):
        Engine(loaded, Limits(vocab_size=64, context_length=64, num_pages=8))


@pytest.mark.parametrize("there", [True, False])
def test_weights_go_straight_to_a_device_where_accelerate_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, there: bool
) -> None:
    folder, asked = save_model(tmp_path / "llama", "llama", 0), []
    real = AutoModelForCausalLM.from_pretrained

    def from_pretrained(*args: Any, device_map: Any = None, **kwargs: Any) -> Any:
        asked.append(device_map)
        model, report = real(*args, **kwargs)
        return model.to("meta") if there else model, report

    monkeypatch.setattr(loader, "is_accelerate_available", lambda: there)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
    # Which runs the model: nothing runs on meta.
    monkeypatch.setattr(loader, "adopt", lambda module, context_length: module)
    monkeypatch.setattr(loader, "replace", lambda module, **changes: module)
    monkeypatch.setattr(torch.nn.Module, "stop_tokens", frozenset(), raising=False)
    found: Any = load(str(folder), torch.float32, torch.device("meta"))
    assert asked == [{"": torch.device("meta")} if there else None]
    assert found.device.type == "meta"


@pytest.mark.parametrize("name", ["missing/folder/of/four", "./nowhere", "no-owner"])
def test_what_is_no_model_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedModel, match=name):
        load(name, torch.float32, torch.device("cpu"))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"config\.json"):
        load(str(tmp_path), torch.float32, torch.device("cpu"))
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(UnsupportedModel, match="not loadable"):
        load(str(tmp_path), torch.float32, torch.device("cpu"))


def spoil_truncated(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])


def spoil_missing(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def spoil_sizes(folder: Path) -> None:
    set_in_config(folder, "intermediate_size", 48)


def spoil_more_layers(folder: Path) -> None:
    set_in_config(folder, "num_hidden_layers", 3)


def spoil_types(folder: Path) -> None:
    set_in_config(folder, "hidden_size", "wide")


def set_in_config(folder: Path, key: str, value: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: value}))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_truncated, "not loadable"),
        (spoil_missing, r"missing.*layers\.1\.mlp\.up_proj"),
        (spoil_more_layers, r"missing.*layers\.2"),
        (spoil_sizes, "not loadable"),
        (spoil_types, "not loadable"),
    ],
)
def test_weights_that_are_not_the_models_are_refused(tmp_path: Path, spoil: Callable[[Path], None], words: str) -> None:
    """Left to itself, transformers puts random numbers where a weight is missing, and serves them."""
    folder = save_model(tmp_path / "llama", "llama", 0)
    load(str(folder), torch.float32, torch.device("cpu"))
    spoil(folder)
    with pytest.raises(UnsupportedModel, match=words) as caught:
        load(str(folder), torch.float32, torch.device("cpu"))
    assert str(folder) in str(caught.value)
