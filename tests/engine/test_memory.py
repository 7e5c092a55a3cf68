"""Memory: two models on one device get KV caches of the same number of tokens, and a cache goes with its model."""

from __future__ import annotations

import copy
import dataclasses
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from evals.families.tiny import tiny_config
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward import attention_varlen
from model_worker.engine.forward.loader import adopt, load
from model_worker.engine.forward.memory import (
    kv_bytes_per_token,
    pages_that_fit,
    room_for_cache,
    split_memory,
    states_beside,
    tokens_beside,
)
from model_worker.engine.types import RunRequest
from tests.support.engines import generate, make_engine_of, run_one
from tests.support.pairs import CONFIGS, CONTEXT_LENGTH, make_model, save_model
from tests.support.recurrent import RECURRENT
from tests.support.varlen import naive_varlen_attn


@pytest.mark.parametrize(("room", "ours", "theirs"), [(1000, 3, 7), (999, 3, 7), (1 << 40, 28672, 196608), (5, 3, 7)])
def test_both_fit_and_one_token_more_would_not(room: int, ours: int, theirs: int) -> None:
    tokens = split_memory(room, ours, theirs)
    assert tokens == split_memory(room, theirs, ours)
    assert tokens * (ours + theirs) <= room < (tokens + 1) * (ours + theirs)


@pytest.mark.parametrize(("free_gb", "room_gb"), [(80, 72), (25, 22.5), (20, 17.5), (3, 0.5), (2, 0)])
def test_room_is_left_for_captured_steps_and_what_they_compute_in(free_gb: float, room_gb: float) -> None:
    assert room_for_cache(int(free_gb * 1e9)) == room_gb * 1e9


def test_a_device_without_room_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = dataclasses.replace(adopt(make_model(CONFIGS["llama"], seed=0)), device=torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3_000_000_000, 80_000_000_000))
    assert pages_that_fit(loaded, 256) == 500_000_000 // (loaded.kv_bytes_per_token * 256)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2_000_000_000, 80_000_000_000))
    with pytest.raises(UnsupportedModel, match=r"cuda:0 has 2\.0 GB free.*--num-pages"):
        pages_that_fit(loaded, 256)


def test_no_room_is_no_token() -> None:
    assert split_memory(-5, 1, 1) == 0


def test_each_worker_finds_the_same_number_by_itself(tmp_path: Path) -> None:
    models = [str(save_model(tmp_path / name, name, seed=0)) for name in ("llama", "qwen2")]
    loaded = [load(model, torch.float32, torch.device("cpu")) for model in models]
    first, second = tokens_beside(loaded[0], models[1]), tokens_beside(loaded[1], models[0])
    assert first == second
    assert first * sum(model.kv_bytes_per_token for model in loaded) <= 1 << 30


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_a_config_tells_what_the_model_keeps_of_a_token(name: str) -> None:
    loaded = adopt(make_model(CONFIGS[name], seed=0))
    assert kv_bytes_per_token(loaded.module.config, loaded.dtype) == loaded.kv_bytes_per_token


# Layers with other heads, and layers that take keys from one below: no field of a config says what each keeps.
UNEVEN = ["gemma3n_text", "gemma4_text", "minicpm3", "kimi_linear"]


@pytest.mark.parametrize("family", UNEVEN)
def test_what_an_uneven_model_keeps_is_the_same_for_both(tmp_path: Path, family: str) -> None:
    model = AutoModelForCausalLM.from_config(tiny_config(family, CONFIG_MAPPING[family]))
    model.save_pretrained(tmp_path / family)
    folders = [str(tmp_path / family), str(save_model(tmp_path / "llama", "llama", seed=0))]
    uneven, plain = (load(folder, torch.float32, torch.device("cpu")) for folder in folders)
    tokens = tokens_beside(plain, folders[0])
    assert tokens == tokens_beside(uneven, folders[1])
    assert tokens * (uneven.kv_bytes_per_token + plain.kv_bytes_per_token) <= 1 << 30


def test_two_models_that_keep_nothing_per_token(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(RECURRENT["mamba2"])
    model.save_pretrained(tmp_path)
    loaded = load(str(tmp_path), torch.float32, torch.device("cpu"), CONTEXT_LENGTH)
    assert tokens_beside(loaded, str(tmp_path)) >= CONTEXT_LENGTH
    assert states_beside(loaded, str(tmp_path)) * 2 * loaded.state_bytes <= 1 << 30


@pytest.mark.parametrize("limits", [{}, {"attention": "varlen", "graphs": "on", "max_batch_tokens": 8}])
def test_a_cache_goes_with_its_engine_and_model_at_once(
    monkeypatch: pytest.MonkeyPatch, limits: dict[str, Any]
) -> None:
    """Not at some collection of garbage: the next model of a benchmark needs the room."""
    monkeypatch.setattr(attention_varlen, "varlen_attn", naive_varlen_attn)
    model = make_model(CONFIGS["llama"], seed=0)
    engine = make_engine_of(model, **limits)
    run_one(engine, RunRequest("s", 0, [5, 6, 7], max_tokens=3))
    module, cache = weakref.ref(model), weakref.ref(engine._runner._cache)
    keys = weakref.ref(engine._runner._cache.keys[0])
    gc.collect()
    gc.disable()
    try:
        del engine, model
        assert (keys(), cache(), module()) == (None, None, None)
    finally:
        gc.enable()


def test_models_beside_each_other_keep_their_own_attention() -> None:
    """Both are served under the one name that transformers knows."""
    first, second = make_model(CONFIGS["llama"], seed=0), make_model(CONFIGS["qwen3"], seed=1)
    engines = [make_engine_of(copy.deepcopy(model)) for model in (first, second)]
    for model, engine in zip((first, second, first), (*engines, engines[0]), strict=True):
        result = run_one(engine, RunRequest("s", 0, [5, 6, 7], max_tokens=8))
        assert result.tokens == generate(model, [5, 6, 7], 8)


def test_another_model_that_is_none_is_named(tmp_path: Path) -> None:
    model = str(save_model(tmp_path / "llama", "llama", seed=0))
    with pytest.raises(UnsupportedModel, match="no such folder"):
        tokens_beside(load(model, torch.float32, torch.device("cpu")), str(tmp_path / "nothing"))
