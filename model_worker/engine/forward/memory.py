"""How many tokens KV caches hold, and how many states of recurrent layers there is room for beside them.

Two models on one device get the same number of tokens: a session needs its tokens in both. Each worker computes it for
itself from the same figures, so neither has to ask the other, nor to start first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, DynamicCache

from model_worker.engine.bookkeeping.states import LEAST_STATES
from model_worker.engine.bookkeeping.windows import MARGIN
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.kv_cache import most_keys
from model_worker.engine.forward.loader import LoadedModel, check_source
from model_worker.engine.forward.probe import probe
from model_worker.engine.forward.quantizing import Format, expected_bytes, stored_bytes
from model_worker.engine.forward.rope_names import read_config
from model_worker.engine.forward.state_layers import KINDS

# The share of the device that is divided; the rest is for two CUDA contexts, activations and captured steps.
_SHARE = 0.85
# What is left free beside one model's cache, for captured steps, what uncaptured ones compute in, and sampling: a share
# of what is free, and no less than they were estimated to take on a small device. (31 graphs of 28 to 64 layers: their
# nodes 0.3 to 1 GB, their logits 0.4 GB for 152k tokens in 16 bits; a step of 512 tokens and sampling 0.5 GB.)
_SPARE_SHARE, _SPARE_BYTES = 0.1, 2_500_000_000
_EXPECTED_TOKENS = 8192  # of a session, where room for windows is shared out: a chain of thought
CPU_BYTES = 1 << 30  # on a CPU, where memory is shared with everything else, a fixed amount
# What states get of a cache's memory, and the most of them that are of use: a session has a few.
_STATE_SHARE, _MOST_STATES = 0.25, 1024
# Where no layer keeps anything per token, pages take no memory: so many sessions may be as long as the context.
_FREE_SESSIONS = 256


def split_memory(room_bytes: int, bytes_per_token: int, other_bytes_per_token: int) -> int:
    """Returns the number of tokens that fit both caches, if each holds as many as the other."""
    return max(0, room_bytes) // (bytes_per_token + other_bytes_per_token)


def tokens_beside(loaded: LoadedModel, other_model: str, other_quantized: Format = "none") -> int:
    """Returns the number of tokens of a KV cache beside that of another model of the same dtype, known by its config
    and how that one's weights are quantized.

    Raises UnsupportedModel if that is no model, or there is no room for both.
    """
    other = _beside(loaded, other_model, other_quantized)
    room = other.room_bytes
    if loaded.states or other.has_states:
        room -= int(room * _STATE_SHARE)
    if loaded.kv_bytes_per_token + other.bytes_per_token == 0:
        return _FREE_SESSIONS * loaded.context_length
    tokens = split_memory(room, loaded.kv_bytes_per_token, other.bytes_per_token)
    if tokens == 0:
        raise UnsupportedModel(f"beside {other_model} there is no memory left on {loaded.device}; use another device")
    return tokens


def states_beside(loaded: LoadedModel, other_model: str, other_quantized: Format = "none") -> int:
    """Returns the number of states that fit beside another model of the same dtype and both KV caches."""
    other = _beside(loaded, other_model, other_quantized)
    return _num_states(loaded, other.room_bytes // 2 if other.has_states else other.room_bytes)


def states_that_fit(loaded: LoadedModel, *, cpu_bytes: int = CPU_BYTES) -> int:
    """Returns the number of states to allocate, 0 where no layer keeps any, as `pages_that_fit` does that of pages.

    Raises UnsupportedModel if there is no room for those of one session.
    """
    if loaded.device.type != "cuda":
        return _num_states(loaded, cpu_bytes)
    return _num_states(loaded, room_for_cache(torch.cuda.mem_get_info(loaded.device)[0]))


def _num_states(loaded: LoadedModel, room_bytes: int) -> int:
    if not loaded.states:
        return 0
    num_states = min(_MOST_STATES, int(room_bytes * _STATE_SHARE) // loaded.state_bytes)
    if num_states < LEAST_STATES:
        raise UnsupportedModel(
            f"a quarter of {room_bytes / 1e9:.1f} GB on {loaded.device} is too little for {LEAST_STATES} states of "
            f"{loaded.state_bytes / 1e6:.0f} MB; use another device, or give --num-states"
        )
    return num_states


@dataclass(frozen=True, slots=True)
class _Beside:
    """Another model on the device, of which only the config is read."""

    room_bytes: int  # that both leave
    bytes_per_token: int  # of its keys and values
    has_states: bool


def _beside(loaded: LoadedModel, other_model: str, other_quantized: Format) -> _Beside:
    source = check_source(other_model)
    try:
        config = read_config(other_model, source)
        with torch.device("meta"):
            other = AutoModelForCausalLM.from_config(config, dtype=loaded.dtype)
    except UnsupportedModel:
        raise
    except Exception as error:  # whatever its files may raise: each format has errors of its own
        raise UnsupportedModel(f"{other_model}: not loadable by transformers: {error}") from error
    room = CPU_BYTES
    if loaded.device.type == "cuda":
        total = torch.cuda.mem_get_info(loaded.device)[1]
        room = room_beside(total, weight_bytes(loaded.module), expected_bytes(other, other_quantized))
    return _Beside(max(0, room), *_kept_by(other.eval(), other_model, loaded.dtype))


def _kept_by(module: Any, name: str, dtype: torch.dtype) -> tuple[int, bool]:
    """Returns the bytes that a model without weights keeps of a token, and whether any layer keeps states.

    It is run as the other worker runs it, so that both count alike: configs do not tell which layers keep more heads
    than others, or write down what they take from a layer below.
    """
    try:
        # In 16 bits, as without a device some products of experts know no other.
        probed = probe(module.to(torch.bfloat16), name, context_length=1)
    except UnsupportedModel:  # as where code chooses by numbers, of which there are none here
        pass
    else:
        return sum(shape.elements for shape in probed.shapes) * dtype.itemsize, bool(probed.states)
    config = module.config.get_text_config()
    try:
        return kv_bytes_per_token(config, dtype), has_states(config)
    except Exception as error:  # likewise: some refuse to name what differs by layer
        raise UnsupportedModel(
            f"{name}: its config does not say what it keeps of a token: {error}; give --kv-tokens"
        ) from error


def has_states(config: Any) -> bool:
    """Returns whether transformers' cache of a model has places for states."""
    return any(hasattr(layer, kind) for layer in DynamicCache(config=config).layers for kind in KINDS)


def weight_bytes(module: nn.Module) -> int:
    """Returns the bytes of what a model holds, in as many bits as it is kept in; what is shared counts once."""
    return sum(stored_bytes(tensor) for tensor in (*module.parameters(), *module.buffers()))


def kv_bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    """Returns the bytes that the keys and values of one token take in all layers, by a config of plain attention."""
    cache = DynamicCache(config=config)
    num_layers = len(cache) - sum(cache.is_dummy) - sum(cache.is_linear)
    if num_layers == 0:
        return 0
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    return int(num_layers * kv_heads * head_dim * 2 * dtype.itemsize)


def window_share(loaded: LoadedModel, page_size: int, max_batch_tokens: int) -> float:
    """Returns for which share of the pages layers that see a window only have room; 1: nothing is given back.

    A session as long as is expected needs just that share. Sessions that are shorter run out of these rooms first.
    """
    kept = most_keys(loaded.shapes) + MARGIN + page_size
    if kept == MARGIN + page_size or kept + max_batch_tokens >= loaded.context_length:
        return 1.0
    return min(1.0, kept / min(loaded.context_length, max(_EXPECTED_TOKENS, 2 * kept)))


def window_pages(loaded: LoadedModel, num_pages: int, page_size: int, max_batch_tokens: int) -> int:
    """Returns for how many pages such layers have room; 0 for all, where that is as good."""
    share = window_share(loaded, page_size, max_batch_tokens)
    kept = most_keys(loaded.shapes) + MARGIN + page_size
    rooms = max(math.ceil(share * num_pages), math.ceil((kept + max_batch_tokens) / page_size))
    return rooms if share < 1 and rooms < num_pages else 0


def pages_that_fit(
    loaded: LoadedModel,
    page_size: int,
    more_bytes_per_token: int = 0,
    *,
    num_states: int = 0,
    cpu_bytes: int = CPU_BYTES,
    window_share: float = 1.0,
) -> int:
    """Returns the number of pages to allocate beside so many states: on CUDA by what is free, on CPU by `cpu_bytes`.

    Layers that see a window only have room for `window_share` of them. Raises UnsupportedModel if a CUDA device has no
    room for a page.
    """
    saved = int((1 - window_share) * loaded.window_bytes_per_token)
    page_bytes = (loaded.kv_bytes_per_token - saved + more_bytes_per_token) * page_size
    if page_bytes == 0:
        return _FREE_SESSIONS * math.ceil(loaded.context_length / page_size)
    state_bytes = num_states * loaded.state_bytes
    if loaded.device.type != "cuda":
        return max(1, (cpu_bytes - state_bytes) // page_bytes)
    free = torch.cuda.mem_get_info(loaded.device)[0]
    num_pages = max(0, room_for_cache(free) - state_bytes) // page_bytes
    if num_pages == 0:
        raise UnsupportedModel(
            f"{loaded.device} has {free / 1e9:.1f} GB free beside the weights, too few for a KV cache and the steps "
            f"({_SPARE_BYTES / 1e9} GB are left to them); use another device, or give --num-pages"
        )
    return num_pages


def room_beside(total_bytes: int, weights: int, other_weights: int) -> int:
    """Returns the bytes that both caches may take of a device with two models; below 0 if these alone are too much."""
    return int(total_bytes * _SHARE) - weights - other_weights


def room_for_cache(free_bytes: int) -> int:
    """Returns the bytes that a KV cache may take of those that are free once the weights are there."""
    return max(0, free_bytes - max(int(free_bytes * _SPARE_SHARE), _SPARE_BYTES))
