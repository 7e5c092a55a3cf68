"""Rope types by the names that configs were published with: known ones load, others are refused with what is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.llama import LlamaConfig
from transformers.models.phi3 import Phi3Config

from evals.fits.sizing import sized
from model_worker.engine.engine import Engine
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.loader import LoadedModel, load
from model_worker.engine.forward.memory import tokens_beside
from model_worker.engine.types import Limits, RunRequest
from tests.support.engines import generate, run_one
from tests.support.pairs import CONFIGS, CONTEXT_LENGTH, save_model_of

_PHI3 = Phi3Config(**{key: CONFIGS["llama"].to_dict()[key] for key in (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id",
)})  # fmt: skip
# As Phi-3-mini-128k was published at first, but for its sizes.
_SU = {"type": "su", "short_factor": [1.0, 1.5, 2.0, 2.5], "long_factor": [4.0, 5.0, 6.0, 8.0]}
_TOP = {"original_max_position_embeddings": 64, "rope_theta": 10000.0}


def folder_of(folder: Path, config: Any, **facts: Any) -> Path:
    save_model_of(folder, config, 0)
    file = folder / "config.json"
    kept = {key: value for key, value in json.loads(file.read_text()).items() if key != "rope_parameters"}
    file.write_text(json.dumps(kept | facts))
    return folder


def loaded(folder: Path) -> LoadedModel:
    return load(str(folder), torch.float64, torch.device("cpu"))


@pytest.mark.parametrize("config", [_PHI3, CONFIGS["llama"]], ids=["phi3", "llama"])
def test_su_is_longrope(tmp_path: Path, config: Any) -> None:
    old = loaded(folder_of(tmp_path / "old", config, rope_scaling=_SU, **_TOP))
    new = loaded(folder_of(tmp_path / "new", config, rope_scaling=_SU | {"type": "longrope"}, **_TOP))
    ids = torch.arange(5, 30)[None]
    with torch.inference_mode():
        assert torch.equal(old.module(ids).logits, new.module(ids).logits)
    assert (old.context_length, old.stop_tokens) == (CONTEXT_LENGTH, new.stop_tokens)
    plain = loaded(folder_of(tmp_path / "plain", config))
    with torch.inference_mode():
        assert not torch.allclose(old.module(ids).logits, plain.module(ids).logits), "the factors do something"
    tokens = [(7 * index) % 300 for index in range(80)]  # beyond the trained length, as the context is
    own = loaded(tmp_path / "new").module
    engine = Engine(old, Limits(300, CONTEXT_LENGTH, num_pages=64))
    assert run_one(engine, RunRequest("s", 0, tokens, max_tokens=8)).tokens == generate(own, tokens, 8)


@pytest.mark.parametrize(
    ("config", "facts", "field"),
    [
        (_PHI3, {"rope_scaling": _SU | {"type": "spiral"}}, "rope_scaling"),
        (CONFIGS["llama"], {"rope_scaling": {"type": "spiral", "factor": 2.0}}, "rope_(scaling|parameters)"),
        (CONFIGS["llama"], {"rope_parameters": {"rope_type": "spiral", "rope_theta": 1e4}}, "rope_parameters"),
    ],
    ids=["phi3", "scaling", "parameters"],
)
def test_an_unknown_rope_type_is_refused_with_those_that_are_known(
    tmp_path: Path, config: Any, facts: dict[str, Any], field: str
) -> None:
    folder = folder_of(tmp_path / "model", config, **_TOP, **facts)
    words = rf"{folder}: {field} in its config\.json is of the rope type spiral.*known types: default.*longrope.*yarn"
    with pytest.raises(UnsupportedModel, match=words):
        loaded(folder)
    with pytest.raises(UnsupportedModel, match=words):
        sized(str(folder))
    other = loaded(folder_of(tmp_path / "other", CONFIGS["llama"]))
    with pytest.raises(UnsupportedModel, match=words):
        tokens_beside(other, str(folder))


def test_a_factor_without_a_type_is_not_left_out(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model", CONFIGS["llama"], rope_scaling={"factor": 2.0})
    with pytest.raises(UnsupportedModel, match=r"rope_scaling in its config\.json has a factor and no rope_type"):
        loaded(folder)


@pytest.mark.parametrize("name", ["linear", "default"])
def test_known_ones_are_left_as_they_are(tmp_path: Path, name: str) -> None:
    folder = folder_of(
        tmp_path / "model", LlamaConfig(**CONFIGS["llama"].to_diff_dict()), rope_scaling={"type": name, "factor": 2.0}
    )
    assert loaded(folder).module.config.rope_parameters["rope_type"] == name
