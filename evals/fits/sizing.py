"""Bytes of a model by its config: weights in each precision, and what a session keeps. No weight is read.

The model is made on the device `meta`, where tensors have shapes and no content, so that parameters are counted by the
code that will hold them. Layers are those that the config names: full attention, a window or chunks, a recurrent state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from evals.fits.presets import CONFIGS
from model_worker.engine.bookkeeping.windows import MARGIN
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.folder_checks import stored_format
from model_worker.engine.forward.loader import check_source
from model_worker.engine.forward.quantizing import LEAST_SHARE, count_parameters, expected_bytes, share_in_linears
from model_worker.engine.forward.rope_names import read_config
from model_worker.engine.ranks.dividing import divide
from model_worker.engine.ranks.group import Ranks
from model_worker.engine.ranks.plan import fitting_sizes, ways_to_divide

SESSION_TOKENS = 8192
_PAGE = 256  # tokens, the largest that a GPU's attention takes by itself
_DTYPE = torch.bfloat16
_STATE_BYTES = 4  # recurrent states are kept in float32
# Bits of a weight as such folders come, scales included; other formats differ from folder to folder.
_STORED_BITS = {"mxfp4": 4.25, "fp8": 8.0}
# Of layers that keep of a token something else than keys and values of one size.
_NOT_PLAIN = ("kv_lora_rank", "global_head_dim", "num_kv_shared_layers")
_LIMITED = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}


@dataclass(frozen=True, slots=True)
class Sized:
    """A model's bytes.

    Attributes:
        weights: by precision: `bf16`, what --quantize makes where it is for this model, what its folder comes in.
        kv_per_token: bytes of a token in layers that see everything.
        window_per_token: bytes of a token in layers that see a window or a chunk only.
        window_kept: tokens that those keep of a session, at most.
        state: bytes that a session takes in recurrent layers, however long it is.
    """

    name: str
    parameters: int
    weights: dict[str, int]
    kv_per_token: int
    window_per_token: int
    window_kept: int
    state: int

    def session_bytes(self, tokens: int = SESSION_TOKENS) -> int:
        """Returns what a session of so many tokens takes."""
        kept = min(tokens, self.window_kept)
        return self.kv_per_token * tokens + self.window_per_token * kept + self.state


def sized(name: str, tp: int = 1) -> Sized:
    """Sizes a preset, a folder or a hub id; divided among `tp` cards, what each of them has of it.

    Raises UnsupportedModel if it is no causal LM that transformers knows, or cannot be divided so.
    """
    logging.set_verbosity_error()
    try:
        config = _config(name)
        stored = stored_format(name, config)
        with torch.device("meta"):
            module: Any = AutoModelForCausalLM.from_config(config, dtype=_DTYPE)
    except UnsupportedModel:
        raise
    except Exception as error:  # whatever its files may raise: each format has errors of its own
        raise UnsupportedModel(f"{name}: not loadable by transformers: {error}") from error
    text = config.get_text_config()
    layers = list(_layers(name, text))
    heads = getattr(text, "num_attention_heads", None)
    if not isinstance(heads, int) or (other := next((key for key in _NOT_PLAIN if getattr(text, key, None)), "")):
        what = f"{other} in its config" if heads else "no num_attention_heads in its config"
        raise UnsupportedModel(f"{name}: what its layers keep of a token is not known here: {what}")
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    per_layer = (getattr(text, "num_key_value_heads", None) or heads) * head_dim * 2 * _DTYPE.itemsize
    parameters, weights = count_parameters(module), dict(_weights(module, stored))
    if tp > 1:
        ways = ways_to_divide(name, module, stored, tp)
        per_layer //= tp if fitting_sizes(module, ways) is not None else 1
        # The first rank has no less than any other. Who they are makes no difference to what it has.
        divide(module, cast(Ranks, SimpleNamespace(rank=0, size=tp)))
        weights = {"bf16": expected_bytes(module, "none")}
        layers = [("full", 0)] * len(layers)  # windows keep everything there
    limited = [kept for _, kept in layers if kept]
    return Sized(
        name,
        parameters,
        weights,
        per_layer * sum(kind == "full" for kind, _ in layers),
        per_layer * len(limited),
        max(limited, default=0) + MARGIN + _PAGE if limited else 0,
        sum(_state_bytes(text) for kind, _ in layers if kind == "recurrent"),
    )


def _config(name: str) -> Any:
    if name in CONFIGS:
        facts = dict(CONFIGS[name])
        return AutoConfig.for_model(facts.pop("model_type"), **facts)
    return read_config(name, check_source(name))


def _weights(module: Any, stored: str) -> Iterator[tuple[str, int]]:
    plain = expected_bytes(module, "none")
    yield "bf16", plain
    if stored:
        if stored in _STORED_BITS:
            outside = {id(part.weight) for part in (module.get_input_embeddings(), module.get_output_embeddings())}
            # MXFP4 is for experts, whose matrices lie in blocks; fp8 for all matrices but embeddings and head.
            least = 3 if stored == "mxfp4" else 2
            few = sum(p.numel() for p in module.parameters() if p.ndim >= least and id(p) not in outside)
            yield stored, plain - round(few * (_DTYPE.itemsize - _STORED_BITS[stored] / 8))
        return
    if share_in_linears(module) >= LEAST_SHARE:
        for kind in ("int8", "int4"):
            yield kind, expected_bytes(module, kind)


def _layers(name: str, config: Any) -> Iterator[tuple[str, int]]:
    """Yields of each layer what it keeps: everything, the last so many tokens, or a state."""
    kinds = getattr(config, "layer_types", None)
    if not kinds:  # then a window is that of all layers
        kind = "sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"
        kinds = [kind] * config.num_hidden_layers
    for kind in kinds:
        if kind in _LIMITED and (kept := getattr(config, _LIMITED[kind], None)):
            yield "limited", int(kept)
        elif kind == "linear_attention":
            yield "recurrent", 0
        elif kind in ("full_attention", *_LIMITED):
            yield "full", 0
        else:
            raise UnsupportedModel(f"{name}: what its layers of type {kind} keep of a session is not known here")


def _state_bytes(config: Any) -> int:
    """Returns the bytes of one layer's state: a matrix per head, and what its convolution looks back on."""
    values = config.linear_num_value_heads * config.linear_value_head_dim
    keys = config.linear_num_key_heads * config.linear_key_head_dim
    convolved = (2 * keys + values) * (config.linear_conv_kernel_dim - 1)
    return int(_STATE_BYTES * (values * config.linear_key_head_dim + convolved))
