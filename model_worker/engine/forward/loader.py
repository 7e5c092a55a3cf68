"""From a folder or hub id to a model that the engine can run exactly, or a refusal that names what it cannot do.

Nothing here is a list of model classes. The model is run once with a probe in place of its attention, which sees what
each layer asks for: anything beyond plain causal attention (with an optional score cap) is refused. Then the engine's
path is compared with the model's own (parity.py), so that a wrong model never starts.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils.hub import cached_file
from transformers.utils.import_utils import is_accelerate_available

from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.dispatch import probed
from model_worker.engine.forward.kv_cache import LayerShape
from model_worker.engine.forward.replaced import restore_forwards

# Keywords that layers pass and that do not change the result of causal attention at inference.
_HARMLESS = {
    "cache",
    "cache_position",
    "dropout",
    "head_mask",
    "is_causal",
    "layer_idx",
    "output_attentions",
    "output_router_logits",
    "past_key_value",
    "past_key_values",
    "position_embeddings",
    "position_ids",
    "target_dtype",
    "token_type_ids",
    "use_cache",
}
# RoPE variants whose angles depend on the length of the *batch*: a session's tokens would depend on its neighbours.
_LENGTH_DEPENDENT_ROPE = {"dynamic", "longrope"}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model and what the engine must know of it."""

    module: Any  # the transformers model, in eval mode on its device
    shapes: list[LayerShape]  # by layer
    hidden_size: int  # width of the LM head's input
    num_logits: int  # rows of the LM head; the real vocabulary may be smaller
    num_embeddings: int  # rows of the embeddings; likewise
    context_length: int  # the most tokens of a session
    stop_tokens: frozenset[int]
    dtype: torch.dtype
    device: torch.device

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that the keys and values of one token take in all layers."""
        elements = sum(shape.num_kv_heads * (shape.key_dim + shape.value_dim) for shape in self.shapes)
        return elements * self.dtype.itemsize


def load(
    model: str, dtype: torch.dtype, device: torch.device, context_length: int = 0, random_weights: int | None = None
) -> LoadedModel:
    """Loads a causal LM from a folder or hub id and examines it.

    A `context_length` of 0 is what the model was made for. With `random_weights`, a seed, only the config is read.
    Raises UnsupportedModel if it is no model, or needs what the engine does not do.
    """
    source = check_source(model)
    missing: list[str] = []
    try:
        config = AutoConfig.from_pretrained(source)
        if random_weights is not None:  # costs what a trained one costs and says nothing sensible
            torch.manual_seed(random_weights)
            with torch.device(device):
                module: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
        else:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source,
                config=config,
                dtype=dtype,
                use_safetensors=True,  # other files are pickles
                output_loading_info=True,
                **_placement(device),
            )
            module, report = loaded
            missing = sorted(report["missing_keys"])
    except Exception as error:  # whatever its files may raise: each format has errors of its own
        raise UnsupportedModel(f"{model}: not loadable by transformers: {error}") from error
    if missing:  # transformers would go on with random numbers in their place
        raise UnsupportedModel(f"{model}: {len(missing)} of its weights are missing, such as {missing[0]}")
    adopted = adopt(module.to(device=device), context_length)
    return replace(adopted, stop_tokens=adopted.stop_tokens | _named_stop_tokens(source))


def _placement(device: torch.device) -> dict[str, Any]:
    """Returns what makes transformers load weights onto a device piece by piece, where it can.

    It wants accelerate for that (5.24 as 5.17, by any of its ways: `device_map`, a device as context). Without, a model
    goes through host memory as a whole, 65 GB for 32B parameters, and is moved then.
    """
    if device.type == "cpu" or not is_accelerate_available():
        return {}
    return {"device_map": {"": device}}


def check_source(model: str) -> str:
    """Returns what transformers can load from: a folder with a model in it, or a hub id. Raises UnsupportedModel."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UnsupportedModel(f"{model}: the folder holds no model (no config.json)")
        return str(folder)
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise UnsupportedModel(f"{model}: no such folder, and not a hub id of the form owner/name")
    return model


def adopt(module: Any, context_length: int = 0) -> LoadedModel:
    """Examines a transformers causal LM that is in memory. Raises UnsupportedModel as `load` does."""
    module.eval()
    restore_forwards(module)  # of an engine that had the model before
    config = module.config
    name = type(module).__name__
    limit = getattr(config, "max_position_embeddings", None)
    longest = int(context_length or limit or 0)
    if longest <= 0:
        raise UnsupportedModel(f"{name}: the config names no max_position_embeddings; give --context-length")
    if limit is not None and longest > limit:
        raise UnsupportedModel(
            f"{name}: --context-length {longest} is over the model's max_position_embeddings {limit}"
        )
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModel(f"{name}: encoder-decoder models are not supported")
    if "logits_to_keep" not in inspect.signature(module.forward).parameters:
        raise UnsupportedModel(f"{name}: its forward takes no logits_to_keep")
    if not getattr(module, "_supports_attention_backend", False):
        raise UnsupportedModel(f"{name}: its attention does not go through transformers' AttentionInterface")
    _refuse_rope(name, config)
    shapes, hidden_size, num_logits = _probe(module, name, longest)
    parameter = next(module.parameters())
    return LoadedModel(
        module=module,
        shapes=shapes,
        hidden_size=hidden_size,
        num_logits=num_logits,
        num_embeddings=_num_embeddings(module, num_logits),
        context_length=longest,
        stop_tokens=_stop_tokens(module),
        dtype=parameter.dtype,
        device=parameter.device,
    )


def _refuse_rope(name: str, config: Any) -> None:
    parameters = getattr(config, "rope_parameters", None) or {}
    for part in [parameters, *(value for value in parameters.values() if isinstance(value, dict))]:
        if part.get("rope_type") in _LENGTH_DEPENDENT_ROPE:
            raise UnsupportedModel(f"{name}: rope_type {part['rope_type']} depends on the longest sequence of a batch")


def _stop_tokens(module: Any) -> frozenset[int]:
    generation = getattr(module, "generation_config", None)
    eos = getattr(generation, "eos_token_id", None)
    if eos is None:
        eos = getattr(module.config, "eos_token_id", None)
    return _ids(eos)


def _named_stop_tokens(source: str) -> frozenset[int]:
    """Returns what config.json itself names. An attribute of the config may be its class's, of quite another model."""
    file = cached_file(source, "config.json")
    config = json.loads(Path(str(file)).read_text())
    parts = [config, *(part for part in (config.get("text_config"),) if isinstance(part, dict))]
    return frozenset().union(*(_ids(part.get("eos_token_id")) for part in parts))


def _ids(eos: int | list[int] | None) -> frozenset[int]:
    return frozenset([eos] if isinstance(eos, int) else eos or ())


def _num_embeddings(module: Any, num_logits: int) -> int:
    weight = getattr(module.get_input_embeddings(), "weight", None)
    return int(weight.shape[0]) if isinstance(weight, Tensor) else num_logits


def _probe(module: Any, name: str, context_length: int) -> tuple[list[LayerShape], int, int]:
    """Runs two tokens with an attention that notes what each layer asks for; raises UnsupportedModel if it is too much.

    Returns the shape of each layer, the width of the LM head's input, and its number of rows.
    """
    shapes: dict[int, LayerShape] = {}

    # It serves as the mask, too: some layers are windowed, or cut into chunks, by that alone, and nothing of it reaches
    # their attention.
    def refuse_window(*, local_size: int | None = None, **_: Any) -> None:
        if local_size is not None and local_size < context_length:
            raise UnsupportedModel(
                f"{name}: sliding-window or chunked attention over {local_size} tokens is not supported; "
                f"start with --context-length {local_size} or less"
            )

    def attention(
        layer: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        scaling, softcap = kwargs.pop("scaling", None), kwargs.pop("softcap", None)
        refuse_window(local_size=kwargs.pop("sliding_window", None))
        if getattr(layer, "is_causal", True) is False or kwargs.get("is_causal") is False:
            raise UnsupportedModel(f"{name}: attention that is not causal is not supported")
        unknown = sorted(key for key, item in kwargs.items() if key not in _HARMLESS and item is not None)
        if unknown:
            raise UnsupportedModel(f"{name}: attention with {', '.join(unknown)} is not supported")
        index = getattr(layer, "layer_idx", None)
        if index is None or index in shapes:
            raise UnsupportedModel(f"{name}: attention layers without an index of their own are not supported")
        shapes[index] = LayerShape(key.shape[1], key.shape[3], value.shape[3], softcap)
        out = nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=key.shape[1] != query.shape[1]
        )
        return out.transpose(1, 2), None

    hidden_sizes: list[int] = []
    head = module.get_output_embeddings()
    if head is None:
        raise UnsupportedModel(f"{name}: it has no LM head")
    hook = head.register_forward_pre_hook(lambda _, inputs: hidden_sizes.append(inputs[0].shape[-1]))
    try:
        with probed(module, attention, refuse_window), torch.inference_mode():
            # Two tokens, because a mask of one token shows nothing.
            ids = torch.zeros(1, 2, dtype=torch.long, device=next(module.parameters()).device)
            logits = module(input_ids=ids, use_cache=False).logits
    except UnsupportedModel:
        raise
    except Exception as error:  # whatever its code raises: it does not run here
        raise UnsupportedModel(f"{name}: a forward in {next(module.parameters()).dtype} failed: {error}") from error
    finally:
        hook.remove()
    if sorted(shapes) != list(range(module.config.num_hidden_layers)):
        raise UnsupportedModel(f"{name}: only layers {sorted(shapes)} have attention (state-space or linear layers?)")
    return [shapes[index] for index in sorted(shapes)], hidden_sizes[0], logits.shape[-1]
