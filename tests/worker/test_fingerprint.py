"""Equal fingerprints are for equal tokens: what changes them, and what does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model_worker.engine.forward.loader import load
from model_worker.fingerprint import Served, weights_fingerprint

_PLAIN = Served("none", None)
_CPU = torch.device("cpu")


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


def told(folder: Path, served: Served = _PLAIN, dtype: torch.dtype = torch.float32, context_length: int = 0) -> str:
    return weights_fingerprint(str(folder), load(str(folder), dtype, _CPU, context_length), served)


def change(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(dict(reversed((json.loads(file.read_text()) | changes).items()))))


def test_the_same_weights_have_the_same_however_they_are_saved(folder: Path) -> None:
    before = told(folder)
    assert len(before) == 64
    weights = load_file(folder / "model.safetensors")
    halves = list(weights)[::2], list(weights)[1::2]
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for name, half in zip(names, halves, strict=True):
        save_file({key: weights[key] for key in half}, folder / name, {"format": "pt"})
    where = {key: name for name, half in zip(names, halves, strict=True) for key in half}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (folder / "model.safetensors").unlink()
    change(folder, transformers_version="0.0", use_cache=False)
    assert told(folder) == before
    assert told(folder, context_length=64) == before


def test_any_other_weights_config_or_numbers_have_another(folder: Path) -> None:
    seen = {told(folder), told(folder, dtype=torch.float64), told(folder, Served("int8", None))}
    seen |= {told(folder, Served("none", seed)) for seed in (0, 1)}
    change(folder, rms_norm_eps=1e-3)
    seen.add(told(folder))
    change(folder, eos_token_id=[0, 5])
    seen.add(told(folder))
    weights = load_file(folder / "model.safetensors")
    for name in list(weights):
        trained = weights | {name: weights[name] * 1.01}
        save_file(trained, folder / "model.safetensors", {"format": "pt"})
        seen.add(told(folder))
    assert len(seen) == 7 + len(weights)
