"""Random models with shared layers, for the laws of shared parameters."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from model_worker.engine.shared_layers.model import SlmTail, save_shared, share_layers
from tests.support.pairs import CONFIGS, make_model, make_tokenizer


def make_random_tail(hidden_size: int, seed: int) -> SlmTail:
    """One that changes much, in float64."""
    torch.manual_seed(seed)
    tail = SlmTail(hidden_size, 48, 1e-6).double()
    with torch.no_grad():
        for parameter in tail.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.6 if parameter.ndim > 1 else 1.0))
    return tail.eval()


def make_pair(architecture: str = "llama", num_layers: int = 1, total: int = 3) -> tuple[Any, Any, SlmTail]:
    """The LLM, the SLM in it, and its tail: all float64, in nobody's engine."""
    config = copy.deepcopy(CONFIGS[architecture])
    config.num_hidden_layers = total
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[0]] * total
    model = make_model(config, 3)
    tail = make_random_tail(config.hidden_size, 4)
    return model, share_layers(model, num_layers, tail).slm, tail


def save_pair(folder: Path, num_layers: int = 1) -> Path:
    """Writes a model folder with shared layers."""
    model, _, tail = make_pair(num_layers=num_layers)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    save_shared(folder, num_layers, tail)
    return folder
