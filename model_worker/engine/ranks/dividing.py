"""Leaves a rank its part of a model, and checks that the parts come to the whole.

A layer whose outputs are divided stays a plain linear layer, of fewer rows, so that kernels and fused parts take it as
they take any. What adds up or gathers is a module around such a layer. A model is loaded whole into the host's memory
by one rank after another, and cut there: so its own code gives the logits that the parts are held to.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.ranks.group import Ranks, in_turn
from model_worker.engine.ranks.plan import Way, bounds, planned

# Largest difference of logits between the parts and the whole, as parity.py has it: sums have another order.
_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4}
_SIXTEEN_BIT_TOLERANCE = 8e-2
_NUM_TOKENS = 8


class Summed(nn.Module):
    """A linear layer of which each rank has the columns of some inputs: the ranks' outputs are added up."""

    def __init__(self, own: nn.Linear, bias: nn.Parameter | None, ranks: Ranks, chosen: slice | None) -> None:
        super().__init__()
        self.own = own
        self.bias = bias  # which is added once
        self._ranks = ranks
        self._chosen = chosen  # of the inputs, where a rank is given all; None: it is given its own

    @property
    def weight(self) -> Tensor:
        return self.own.weight

    def forward(self, x: Tensor) -> Tensor:
        out = self._ranks.sum(self.own(x if self._chosen is None else x[..., self._chosen]))
        return out if self.bias is None else out + self.bias


class Gathered(nn.Module):
    """A linear layer of which each rank has the rows of some outputs: every rank gets those of all.

    All have as many, as that is how they are gathered: the last ones have rows of zeros, which are cut off.
    """

    def __init__(self, own: nn.Linear, num_outputs: int, ranks: Ranks) -> None:
        super().__init__()
        self.own = own
        self._num_outputs = num_outputs
        self._ranks = ranks

    @property
    def weight(self) -> Tensor:
        return self.own.weight

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(self._ranks.gather(self.own(x)), dim=-1)[..., : self._num_outputs]


class Division:
    """What loading does with a model of which this rank is to have its part."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._whole: Tensor | None = None
        self.num_parameters = 0  # of the whole model, once it was divided

    def turn(self) -> AbstractContextManager[None]:
        """Is entered to load the model and divide it: the host has memory for one whole model at a time."""
        return in_turn(self._ranks)

    def divide(self, module: Any) -> None:
        """Leaves this rank's part of a model that lies in the host's memory."""
        self.num_parameters = sum(parameter.numel() for parameter in module.parameters())
        if self._ranks.rank == 0:
            self._whole = _logits(module)
        divide(module, self._ranks)

    def check(self, module: Any) -> None:
        """Raises UnsupportedModel, at rank 0, if the parts do not give the logits that the whole model gave."""
        name = type(module).__name__
        try:
            ours = _logits(module)
        except RuntimeError as error:  # whatever its code says of fewer heads than its config has
            raise UnsupportedModel(f"{name}: its parts do not run: {error}; leave --tp out") from error
        if self._whole is None:
            return
        own = self._whole.double()
        difference = float((ours.double() - own).norm() / own.norm().clamp_min(1e-6))
        tolerance = _TOLERANCE.get(self._whole.dtype, _SIXTEEN_BIT_TOLERANCE)
        if not difference <= tolerance:  # so that NaN fails, too
            raise UnsupportedModel(
                f"{name}: the logits of its {self._ranks.size} parts differ from the model's own by {difference:.1e}, "
                f"more than {tolerance:.0e}; leave --tp out"
            )
        self._whole = None


def divide(module: Any, ranks: Ranks) -> None:
    """Leaves of each planned layer the rank's part. Raises UnsupportedModel if there is no plan for the model."""
    for name, way in planned(type(module).__name__, module).items():
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, _part(module.get_submodule(name), way, ranks))


def _part(part: nn.Linear, way: Way, ranks: Ranks) -> nn.Module:
    weight, bias, num_outputs = part.weight.detach(), part.bias, part.out_features
    if way in (Way.INPUTS, Way.CHOSEN_INPUTS):
        begin, end = bounds(part.in_features, ranks.rank, ranks.size)
        part.weight = _own(weight[:, begin:end])
        part.bias = None  # type: ignore[assignment]  # as a linear layer without one has it
        part.in_features = end - begin
        return Summed(part, bias, ranks, slice(begin, end) if way is Way.CHOSEN_INPUTS else None)
    if way is Way.OUTPUTS:
        begin, end = bounds(num_outputs, ranks.rank, ranks.size)
        missing = 0
    else:
        width = -(-num_outputs // ranks.size)
        begin, end = min(ranks.rank * width, num_outputs), min((ranks.rank + 1) * width, num_outputs)
        missing = width - (end - begin)
    part.weight = _own(nn.functional.pad(weight[begin:end], (0, 0, 0, missing)))
    part.bias = None if bias is None else _own(nn.functional.pad(bias.detach()[begin:end], (0, missing)))
    part.out_features = end - begin + missing
    return part if way is Way.OUTPUTS else Gathered(part, num_outputs, ranks)


def _own(values: Tensor) -> nn.Parameter:
    """Returns a copy, so that the whole goes."""
    return nn.Parameter(values.clone(memory_format=torch.contiguous_format), requires_grad=False)


def _logits(module: Any) -> Tensor:
    rows = module.get_input_embeddings().weight.shape[0]
    ids = torch.tensor([[(7 * index + 3) % rows for index in range(_NUM_TOKENS)]])
    with torch.no_grad():
        logits: Tensor = module(input_ids=ids, use_cache=False).logits[0]
    return logits
