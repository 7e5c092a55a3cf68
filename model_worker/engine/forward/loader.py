"""From a folder or hub id to a model that the engine can run exactly, or a refusal that names what it cannot do.

Nothing here is a list of model classes. The model is run once to see what each layer asks for (probe.py): what the
engine does not do is refused. Then the engine's path is compared with the model's own (parity.py), so that a wrong
model never starts.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.utils.hub import cached_file
from transformers.utils.import_utils import is_accelerate_available

from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.folder_checks import check_report, not_loadable, refuse_adapter, stored_format
from model_worker.engine.forward.kv_cache import LayerShape
from model_worker.engine.forward.probe import probe
from model_worker.engine.forward.quantizing import Format, quantize
from model_worker.engine.forward.replaced import restore_forwards
from model_worker.engine.forward.rope import longest_context, settle_rope
from model_worker.engine.forward.rope_names import read_config
from model_worker.engine.forward.state_layers import StateLayer


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model and what the engine must know of it."""

    module: Any  # the transformers model, in eval mode on its device
    shapes: list[LayerShape]  # by layer
    states: list[StateLayer]  # parts that keep states from token to token
    hidden_size: int  # width of the LM head's input
    num_logits: int  # rows of the LM head; the real vocabulary may be smaller
    num_embeddings: int  # rows of the embeddings; likewise
    counts_positions: bool  # whether layers count positions themselves, by the length of a cache
    wants_mask: bool  # whether the model is to be given a mask of ones, [1, tokens]
    context_length: int  # the most tokens of a session
    stop_tokens: frozenset[int]
    dtype: torch.dtype
    device: torch.device
    quantized: str = ""  # into which format, and how much of it; empty: nothing is
    rounds_activations: bool = False  # or may: its products are those of a format that its folder chose
    num_parameters: int = 0  # of the whole model, where this is a part of one; 0: it is the whole

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that the keys and values of one token take in all layers."""
        return sum(shape.elements for shape in self.shapes) * self.dtype.itemsize

    @property
    def state_bytes(self) -> int:
        """Bytes that the states after a token take in all layers."""
        return sum(state.num_bytes for layer in self.states for state in layer.states)

    @property
    def window_bytes_per_token(self) -> int:
        """Bytes of these in layers that see a window or a chunk only."""
        return sum(shape.elements for shape in self.shapes if shape.reach.is_limited) * self.dtype.itemsize


class Division(Protocol):
    """Leaves a part of a model, where others have the rest."""

    num_parameters: int  # of the whole, once it was divided

    def turn(self) -> AbstractContextManager[None]:
        """Is entered while the whole model is in the host's memory."""
        ...

    def divide(self, module: Any) -> None:
        """Takes away from the model, in place, what others have."""
        ...

    def check(self, module: Any) -> None:
        """Raises UnsupportedModel if the parts are not the whole; all who have one are there."""
        ...


def load(
    model: str,
    dtype: torch.dtype,
    device: torch.device,
    context_length: int = 0,
    random_weights: int | None = None,
    quantized: Format = "none",
    division: Division | None = None,
) -> LoadedModel:
    """Loads a causal LM from a folder or hub id and examines it.

    A `context_length` of 0 is what the model was made for. With `random_weights`, a seed, only the config is read.
    What is to be `quantized` goes through the host's memory as a whole, and onto the device in the bits it is kept in.
    So does what is left of a model by its `division`.
    Raises UnsupportedModel if it is no model, or needs what the engine does not do.
    """
    source = check_source(model)
    first = device if quantized == "none" and division is None else torch.device("cpu")
    with division.turn() if division is not None else nullcontext():
        module, stored = _whole(model, source, dtype, first, random_weights, quantized)
        if division is not None:
            division.divide(module.eval())
    if division is not None:
        division.check(module)
    said = quantize(module, quantized, device) or (stored and f"{stored}, as its folder has them")
    adopted = adopt(module, context_length)
    adopted = replace(
        adopted,
        stop_tokens=adopted.stop_tokens | _named_stop_tokens(source),
        num_parameters=division.num_parameters if division is not None else 0,
    )
    return replace(adopted, quantized=said, rounds_activations=bool(stored)) if said else adopted


def _whole(
    model: str, source: str, dtype: torch.dtype, device: torch.device, random_weights: int | None, quantized: Format
) -> tuple[Any, str]:
    """Returns transformers' model, on `device` where it can be loaded there, and the format that its folder has."""
    report: dict[str, Any] | None = None
    stored = ""
    try:
        config = read_config(model, source)
        stored = _stored_format(model, config, quantized)
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
    except UnsupportedModel:
        raise
    except Exception as error:  # whatever its files may raise: each format has errors of its own
        raise not_loadable(model, stored, error) from error
    if report is not None:
        check_report(model, report)
    return module, stored


def _stored_format(model: str, config: Any, quantized: Format) -> str:
    stored = stored_format(model, config)
    if stored and quantized != "none":
        raise UnsupportedModel(
            f"{model}: its weights are quantized already ({stored}); leave --quantize {quantized} out"
        )
    return stored


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
        refuse_adapter(model, str(folder))
        if not (folder / "config.json").is_file():
            raise UnsupportedModel(f"{model}: the folder holds no model (no config.json)")
        return str(folder)
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise UnsupportedModel(f"{model}: no such folder, and not a hub id of the form owner/name")
    refuse_adapter(model, model)
    return model


def adopt(module: Any, context_length: int = 0) -> LoadedModel:
    """Examines a transformers causal LM that is in memory. Raises UnsupportedModel as `load` does."""
    module.eval()
    restore_forwards(module)  # of an engine that had the model before
    config = module.config
    name = type(module).__name__
    limit = longest_context(config.get_text_config())
    longest = int(context_length or limit or 0)
    if longest <= 0:
        raise UnsupportedModel(f"{name}: the config names no max_position_embeddings; give --context-length")
    if limit is not None and longest > limit:
        raise UnsupportedModel(
            f"{name}: --context-length {longest} is over what the model is made for, {limit} by its config"
        )
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModel(f"{name}: encoder-decoder models are not supported")
    settle_rope(name, module, config.get_text_config(), longest)
    probed = probe(module, name, longest)
    parameter = next(module.parameters())
    return LoadedModel(
        module=module,
        shapes=probed.shapes,
        states=probed.states,
        hidden_size=probed.hidden_size,
        num_logits=probed.num_logits,
        num_embeddings=_num_embeddings(module, probed.num_logits),
        counts_positions=probed.counts_positions,
        wants_mask=probed.wants_mask,
        context_length=longest,
        stop_tokens=_stop_tokens(module),
        dtype=parameter.dtype,
        device=parameter.device,
    )


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
