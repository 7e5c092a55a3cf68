"""A model with an exit: its first layers, with a small head of their own, are the SLM; all of its layers are the LLM.

The folder is an ordinary `transformers` one with two more files: `exit.json` says after how many layers the exit is,
`exit.safetensors` holds what only the exit has, an adapter that looks at one token at a time. It has no attention and
so keeps no keys and values: what the LLM has computed of a session the SLM has too. The SLM, and the layers above the
exit, are made here as `transformers` models that hold the *same* layers, not copies of them.
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

CONFIG, WEIGHTS = "exit.json", "exit.safetensors"


class ExitTail(nn.Module):
    """From the hidden state after layer k to the LM head's input: a gated MLP beside the residual, and a norm."""

    def __init__(self, hidden_size: int, adapter_size: int, eps: float) -> None:
        super().__init__()
        self.input_norm = nn.RMSNorm(hidden_size, eps)
        self.gate = nn.Linear(hidden_size, adapter_size, bias=False)
        self.up = nn.Linear(hidden_size, adapter_size, bias=False)
        self.down = nn.Linear(adapter_size, hidden_size, bias=False)
        self.norm = nn.RMSNorm(hidden_size, eps)
        nn.init.zeros_(self.down.weight)  # at first it changes nothing

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., hidden_size] to the same."""
        x = self.input_norm(hidden)
        adapted: Tensor = self.norm(hidden + self.down(nn.functional.silu(self.gate(x)) * self.up(x)))
        return adapted


@dataclass(frozen=True, slots=True)
class Exit:
    """The two parts of a model that has an exit, as models of their own on the same weights.

    Attributes:
        num_layers: below the exit.
        module: the SLM: those layers, the tail, the model's own LM head.
        upper: the layers above; takes `inputs_embeds`, the hidden states after layer `num_layers`.
        tail: of the SLM; its input is that hidden state.
    """

    num_layers: int
    module: Any
    upper: Any
    tail: ExitTail

    @property
    def bytes_per_token(self) -> int:
        """Bytes that a token takes beside its keys and values: the hidden state between the two parts."""
        return int(self.tail.norm.weight.numel() * self.tail.norm.weight.itemsize)


def load_exit(folder: str, module: Any) -> Exit:
    """The exit of a model that is loaded from a folder.

    Raises UnsupportedModel if the folder has none, or one that does not fit the model.
    """
    root = Path(folder).expanduser()
    missing = [name for name in (CONFIG, WEIGHTS) if not (root / name).is_file()]
    if missing:
        raise UnsupportedModel(f"{folder}: no model with an exit (no {missing[0]}); serve it without --exit-listen")
    try:
        config = json.loads((root / CONFIG).read_text())
        num_layers, adapter_size = int(config["num_layers"]), int(config["adapter_size"])
        weights: Mapping[str, Tensor] = load_file(root / WEIGHTS)
    except Exception as error:  # whatever a broken file may raise: each format has errors of its own
        raise UnsupportedModel(f"{folder}: its exit is not readable: {type(error).__name__}: {error}") from error
    parameter = next(module.parameters())
    tail = ExitTail(module.config.hidden_size, adapter_size, _eps(module)).to(parameter.device, parameter.dtype)
    try:
        tail.load_state_dict(weights)
    except RuntimeError as error:
        raise UnsupportedModel(f"{folder}: the weights of {WEIGHTS} do not fit the model: {error}") from error
    return make_exit(module, num_layers, tail.eval())


def make_exit(module: Any, num_layers: int, tail: ExitTail) -> Exit:
    """The parts of a model in memory. Raises UnsupportedModel where it cannot be cut there."""
    name, total = type(module).__name__, module.config.num_hidden_layers
    base = module.base_model
    if not (
        isinstance(getattr(base, "layers", None), nn.ModuleList) and isinstance(getattr(base, "norm", None), nn.Module)
    ):
        raise UnsupportedModel(f"{name}: an exit needs a model with `layers` and one `norm` after them")
    if not 0 < num_layers < total:
        raise UnsupportedModel(f"{name}: an exit after layer {num_layers} of {total} is none; choose 1 to {total - 1}")
    below, above = _cut(module, 0, num_layers), _cut(module, num_layers, total)
    below.base_model.norm = tail
    return Exit(num_layers, below, above, tail)


def save_exit(folder: Path, num_layers: int, tail: ExitTail, **facts: Any) -> None:
    """Writes the two files beside a model's own; `facts` go into the first one."""
    config = {"num_layers": num_layers, "adapter_size": tail.gate.out_features, **facts}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    save_file({name: value.contiguous() for name, value in tail.state_dict().items()}, folder / WEIGHTS)


def _cut(module: Any, first: int, last: int) -> Any:
    """A model of the layers [first, last) of another, with all else that the other has: the same modules."""
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


def _eps(module: Any) -> float:
    return float(getattr(module.config, "rms_norm_eps", 1e-6))
