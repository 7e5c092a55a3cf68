"""The SLM as the LLM's first layers: they and a small head of their own write as the SLM, all layers as the LLM.

The folder is an ordinary `transformers` one with two more files: `shared_layers.json` says how many layers are shared,
`shared_layers.safetensors` holds the SLM's head. The head looks at one token at a time: it has no attention and so no
keys and values, and what the LLM has computed of a session the SLM has, too. The SLM and the layers above the shared
ones are made here as `transformers` models that hold the *same* layers, not copies of them.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from model_worker.engine.errors import UnsupportedModel

CONFIG, WEIGHTS = "shared_layers.json", "shared_layers.safetensors"
_OLD_NAMES = {CONFIG: "exit.json", WEIGHTS: "exit.safetensors"}  # read for one more release


class SlmTail(nn.Module):
    """From the hidden state after the shared layers to the LM head's input: a gated MLP beside the residual, a norm."""

    def __init__(self, hidden_size: int, adapter_size: int, eps: float) -> None:
        super().__init__()
        self.input_norm = nn.RMSNorm(hidden_size, eps)
        self.gate = nn.Linear(hidden_size, adapter_size, bias=False)
        self.up = nn.Linear(hidden_size, adapter_size, bias=False)
        self.down = nn.Linear(adapter_size, hidden_size, bias=False)
        self.activation = nn.SiLU()
        self.norm = nn.RMSNorm(hidden_size, eps)
        nn.init.zeros_(self.down.weight)  # training begins from the norm alone

    def forward(self, hidden: Tensor) -> Tensor:
        x = self.input_norm(hidden)
        adapted: Tensor = self.norm(hidden + self.down(self.activation(self.gate(x)) * self.up(x)))
        return adapted


@dataclass(frozen=True, slots=True)
class SharedModel:
    """The parts of a model with shared layers, as models of their own on the same weights."""

    #   ids -> [ shared layers 0..k-1 ] -> hidden -> [ layers k.. ] -> norm -> LM head     the LLM
    #                                        |-----> [ tail ] -----------------> LM head   the SLM
    #          |------------ slm ---------------------------------------------------|
    #                                             |---------- upper ----------------|

    num_layers: int  # how many are shared
    slm: Any  # those layers, the tail and the model's own LM head
    upper: Any  # the layers above; takes `inputs_embeds`, the hidden states after the shared layers
    tail: SlmTail

    @property
    def bytes_per_token(self) -> int:
        """Bytes that a token takes beside its keys and values: the hidden state between the two parts."""
        return int(self.tail.norm.weight.numel() * self.tail.norm.weight.itemsize)


def load_shared(folder: str, module: Any) -> SharedModel:
    """Reads what the folder of `module` has beside it and cuts the model.

    Raises UnsupportedModel if the folder has no shared layers, or some that do not fit the model.
    """
    config_file, weights_file = shared_files(folder)
    try:
        config = json.loads(config_file.read_text())
        num_layers, adapter_size = int(config["num_layers"]), int(config["adapter_size"])
        weights: Mapping[str, Tensor] = load_file(weights_file)
    except Exception as error:  # whatever a broken file may raise: each format has errors of its own
        raise UnsupportedModel(
            f"{folder}: its shared layers are not readable: {type(error).__name__}: {error}"
        ) from error
    parameter, eps = next(module.parameters()), float(getattr(module.config, "rms_norm_eps", 1e-6))
    tail = SlmTail(module.config.hidden_size, adapter_size, eps).to(parameter.device, parameter.dtype)
    try:
        tail.load_state_dict(weights)
    except RuntimeError as error:
        raise UnsupportedModel(f"{folder}: the weights of {WEIGHTS} do not fit the model: {error}") from error
    return share_layers(module, num_layers, tail.eval())


def shared_files(folder: str) -> tuple[Path, Path]:
    """Finds the two files beside a model's own, config and weights. Raises UnsupportedModel if one is not there."""
    root = Path(folder).expanduser()
    files = {name: root / (name if (root / name).is_file() else old) for name, old in _OLD_NAMES.items()}
    missing = [name for name, file in files.items() if not file.is_file()]
    if missing:
        raise UnsupportedModel(
            f"{folder}: no model with shared layers (no {missing[0]}); serve it without --shared-listen"
        )
    return files[CONFIG], files[WEIGHTS]


def share_layers(module: Any, num_layers: int, tail: SlmTail) -> SharedModel:
    """Cuts a model in memory. Raises UnsupportedModel where it cannot be cut there."""
    name, total = type(module).__name__, module.config.num_hidden_layers
    base = module.base_model
    if not (
        isinstance(getattr(base, "layers", None), nn.ModuleList) and isinstance(getattr(base, "norm", None), nn.Module)
    ):
        raise UnsupportedModel(f"{name}: sharing layers needs a model with `layers` and one `norm` after them")
    if not 0 < num_layers < total:
        raise UnsupportedModel(f"{name}: {num_layers} of {total} layers cannot be shared; choose 1 to {total - 1}")
    below, above = _cut(module, 0, num_layers), _cut(module, num_layers, total)
    below.base_model.norm = tail  # the tail ends in a norm of its own
    return SharedModel(num_layers, below, above, tail)


def save_shared(folder: Path, num_layers: int, tail: SlmTail, **facts: Any) -> None:
    """Writes the two files beside a model's own; `facts` go into the first one."""
    config = {"num_layers": num_layers, "adapter_size": tail.gate.out_features, **facts}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    save_file({name: value.contiguous() for name, value in tail.state_dict().items()}, folder / WEIGHTS)


def _cut(module: Any, first: int, last: int) -> Any:
    """Returns a model of the layers [first, last) of another; whatever else the other has is in both."""
    config = copy.deepcopy(module.config)
    config.num_hidden_layers = last - first
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[first:last]
    with torch.device("meta"):
        part = AutoModelForCausalLM.from_config(config)
    for name, child in module.base_model.named_children():
        setattr(part.base_model, name, nn.ModuleList(child[first:last]) if name == "layers" else child)
    part.set_output_embeddings(module.get_output_embeddings())
    return part.eval()
