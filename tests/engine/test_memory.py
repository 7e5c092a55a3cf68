"""Two models on one device get KV caches of the same number of tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.loader import adopt, load
from model_worker.engine.forward.memory import kv_bytes_per_token, split_memory, tokens_beside
from tests.support.pairs import CONFIGS, make_model, save_model


@pytest.mark.parametrize(("room", "ours", "theirs"), [(1000, 3, 7), (999, 3, 7), (1 << 40, 28672, 196608), (5, 3, 7)])
def test_both_fit_and_one_token_more_would_not(room: int, ours: int, theirs: int) -> None:
    tokens = split_memory(room, ours, theirs)
    assert tokens == split_memory(room, theirs, ours)
    assert tokens * (ours + theirs) <= room < (tokens + 1) * (ours + theirs)


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


def test_another_model_that_is_none_is_named(tmp_path: Path) -> None:
    model = str(save_model(tmp_path / "llama", "llama", seed=0))
    with pytest.raises(UnsupportedModel, match="no such folder"):
        tokens_beside(load(model, torch.float32, torch.device("cpu")), str(tmp_path / "nothing"))
