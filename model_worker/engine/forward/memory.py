"""How many tokens KV caches hold. Two models on one device get the same number: a session needs its tokens in both.

Each worker computes it for itself from the same figures, so neither has to ask the other, nor to start first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.loader import LoadedModel, check_source

# The share of the device that is divided; the rest is for two CUDA contexts, activations and captured steps.
_SHARE = 0.85
_CPU_BYTES = 1 << 30  # on a CPU, where memory is shared with everything else, a fixed amount


def split_memory(room_bytes: int, bytes_per_token: int, other_bytes_per_token: int) -> int:
    """Returns the number of tokens that fit both caches, if each holds as many as the other."""
    return max(0, room_bytes) // (bytes_per_token + other_bytes_per_token)


def tokens_beside(loaded: LoadedModel, other_model: str) -> int:
    """Returns the number of tokens of a KV cache beside that of another model of the same dtype, sized by its config.

    Raises UnsupportedModel if that is no model, or there is no room for both.
    """
    source = check_source(other_model)
    try:
        config = AutoConfig.from_pretrained(source)
        with torch.device("meta"):
            other = AutoModelForCausalLM.from_config(config, dtype=loaded.dtype)
    except Exception as error:  # whatever its files may raise: each format has errors of its own
        raise UnsupportedModel(f"{other_model}: not loadable by transformers: {error}") from error
    room = _CPU_BYTES
    if loaded.device.type == "cuda":
        total = torch.cuda.mem_get_info(loaded.device)[1]
        room = int(total * _SHARE) - weight_bytes(loaded.module) - weight_bytes(other)
    tokens = split_memory(room, loaded.kv_bytes_per_token, kv_bytes_per_token(config.get_text_config(), loaded.dtype))
    if tokens == 0:
        raise UnsupportedModel(f"beside {other_model} there is no memory left on {loaded.device}; use another device")
    return tokens


def weight_bytes(module: nn.Module) -> int:
    """Returns the bytes of the parameters; shared ones count once."""
    return sum(parameter.numel() * parameter.itemsize for parameter in module.parameters())


def kv_bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    """Returns the bytes that the keys and values of one token take in all layers, by a config of plain attention."""
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    return int(config.num_hidden_layers * kv_heads * head_dim * 2 * dtype.itemsize)


def pages_that_fit(
    loaded: LoadedModel, page_size: int, more_bytes_per_token: int = 0, *, cpu_bytes: int = _CPU_BYTES
) -> int:
    """Returns the number of pages to allocate: on CUDA by 90% of the free memory, on CPU by `cpu_bytes`."""
    room = cpu_bytes
    if loaded.device.type == "cuda":
        room = int(torch.cuda.mem_get_info(loaded.device)[0] * 0.9)
    return max(1, room // ((loaded.kv_bytes_per_token + more_bytes_per_token) * page_size))
