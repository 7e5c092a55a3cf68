"""Tiny random models of any family: its config made small by the names of its fields, its weights made wide.

It knows no family by name: what the names do not tell is in hints.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig

from evals.families.hints import HINTS
from evals.families.sizes import HEADS, NUM_LAYERS, NUM_TOKENS, SIZES, VOCAB_SIZE

_NEVER_NONE = ("head_dim", "num_key_value_heads")  # some leave it to the code of their models to find out
_SPECIAL = ("_token_id", "_token_ids", "_token_index", "_index")


def tiny_config(model_type: str, config_class: type[PreTrainedConfig]) -> PreTrainedConfig:
    """Returns a small config of a family, with layers of each kind that its default has."""
    return config_class(**_fields(config_class, HINTS.get(model_type, {})))


def tiny_model(config: PreTrainedConfig, dtype: torch.dtype, seed: int = 0) -> Any:
    """Returns a random model whose tokens vary: wide weights, and logits that range widely."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    model.generation_config = GenerationConfig()  # plain greedy, whatever the family generates by
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.is_floating_point():
                continue
            if parameter.ndim > 1:
                parameter.mul_(8)
            else:  # what begins as zero or one would hide where it is left out
                parameter.add_(0.1 * torch.randn_like(parameter))
        _vary(model, torch.arange(5, 25)[None])
    return model


def _vary(model: Any, ids: Tensor) -> None:
    """Makes logits differ by position and not by token alone, by a standard deviation of 4."""
    head, seen = model.get_output_embeddings(), []
    if head is None:
        return
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(input_ids=ids, use_cache=False)
    hook.remove()
    # What all hidden states have in common would choose one token everywhere.
    common = seen[0].flatten(0, -2).mean(0)
    common = common / common.norm()
    head.weight.sub_(torch.outer(head.weight @ common, common))
    logits = model(input_ids=ids, use_cache=False).logits[0]
    spread = (logits - logits.mean(0)).std()
    if spread.isfinite() and spread > 0:
        head.weight.mul_(4 / spread)


def _fields(config_class: type[PreTrainedConfig], hints: dict[str, Any]) -> dict[str, Any]:
    """Returns what makes the config small; a hint of a part is a dict of its own."""
    try:
        default: Any = config_class()
    except Exception:  # noqa: BLE001 - some cannot be made of nothing; then what a class has by itself counts
        default = config_class
    made: dict[str, Any] = {}
    for field in dataclasses.fields(config_class):
        value = _value(default, field.name)
        if isinstance(value, PreTrainedConfig):
            made[field.name] = {"model_type": value.model_type, **_fields(type(value), hints.get(field.name, {}))}
        elif field.name == "is_decoder":
            made[field.name] = True
        elif field.name.endswith(_SPECIAL) or field.name == "pad_token_id":
            made |= _special(field.name, value, len(made))
        elif field.name == "tie_word_embeddings":
            made[field.name] = False  # else a token mostly says itself again
        elif field.name in SIZES and (_is_on(value) or (value is None and field.name in _NEVER_NONE)):
            made[field.name] = SIZES[field.name]
    if hasattr(config_class, "kv_lora_rank") and "num_key_value_heads" in made:  # each head has keys of its own
        made["num_key_value_heads"] = HEADS
    made |= _by_layer(default, made)
    return made | {name: value for name, value in hints.items() if not isinstance(made.get(name), dict)}


def _is_on(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _value(config: Any, name: str) -> Any:
    try:
        return getattr(config, name, None)
    except Exception:  # noqa: BLE001 - what differs by layer is no one value
        return None


def _special(name: str, value: Any, index: int) -> dict[str, Any]:
    """No id that means something, or ends a text, is read or written."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return {name: NUM_TOKENS + index % (VOCAB_SIZE - NUM_TOKENS)}
    return {}


def _by_layer(default: Any, made: dict[str, Any]) -> dict[str, Any]:
    """Shortens lists that have an entry per layer, so that each kind of layer stays."""
    num_layers = _value(default, "num_hidden_layers")
    if not isinstance(num_layers, int):
        return {}
    found = {}
    for field in dataclasses.fields(type(default)) if not isinstance(default, type) else ():
        value = _value(default, field.name)
        if isinstance(value, list | tuple) and len(value) == num_layers and field.name not in made:
            found[field.name] = (
                [HEADS] * NUM_LAYERS if field.name == "num_attention_heads_per_layer" else _shortened(value)
            )
    if set(found.get("layer_types", ())) == {"full_attention"} and "sliding_window" in made:
        found["layer_types"] = _shortened(["sliding_attention", "full_attention"])  # it knows both
    return found


def _shortened(values: Sequence[Any]) -> list[Any]:
    if not all(isinstance(value, str | int | float) for value in values):
        return list(values[:NUM_LAYERS])
    kinds = list(dict.fromkeys(values))
    return [kinds[index % len(kinds)] for index in range(NUM_LAYERS)]
