"""The states of all sessions, and the layers that read and write them. Whose a slot is the bookkeeping's business.

A layer with states is called by the model with the whole batch, tokens of many sessions in a row. What is called
instead splits it: the layer's own forward is run on rows that are as long, as one batch, with a cache of theirs.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from model_worker.engine.bookkeeping.runs import Row
from model_worker.engine.forward.batch import Batch
from model_worker.engine.forward.loader import LoadedModel
from model_worker.engine.forward.replaced import replace_forward
from model_worker.engine.forward.state_layers import KINDS, StateLayer, StateShape, by_place_and_name, is_per_token
from model_worker.engine.forward.state_plan import Call, plan
from model_worker.engine.forward.transfer import to_device


@dataclass(frozen=True, slots=True)
class _DeviceCall:
    """A call with its numbers on the device, int64."""

    call: Call
    tokens: Tensor  # [rows * tokens]
    sources: Tensor  # [rows]; none is looked at where it is fresh
    targets: Tensor  # [rows]


class StateStore:
    """Tensors [slots, ...] for each state of each layer; a slot more is written by rows that nobody will go on from."""

    def __init__(self, loaded: LoadedModel, num_slots: int) -> None:
        layers = loaded.states
        self.num_tokens = 0  # of the batch
        self._num_slots = num_slots
        self._device = loaded.device

        def slots(state: StateShape) -> Tensor:
            return torch.empty((num_slots + 1, *state.size), dtype=state.dtype, device=loaded.device)

        self._tensors = [[slots(state) for state in layer.states] for layer in layers]
        # What cannot go on from a state with several tokens at once does so with one.
        self._chunks = all(layer.continues for layer in layers)
        self._calls: list[_DeviceCall] = []
        for layer, tensors in zip(layers, self._tensors, strict=True):
            part = loaded.module.get_submodule(layer.part)
            replace_forward(part, _Split(self, layer, tensors, _forward_of(part)))

    def begin(self, batch: Batch) -> None:
        """Is told the next batch before the model is run on it."""
        self.num_tokens = batch.num_tokens
        calls = plan(batch.placed, self._num_slots, chunks=self._chunks)
        parts = [
            (call.tokens, [each.source or 0 for each in call.stretches], [each.target for each in call.stretches])
            for call in calls
        ]
        # One tensor for all lists, so that one copy brings them to the device.
        numbers = to_device(torch.tensor([n for part in parts for each in part for n in each]), self._device)
        split = iter(numbers.split([len(each) for part in parts for each in part]))
        self._calls = [_DeviceCall(call, next(split), next(split), next(split)) for call in calls]

    @property
    def calls(self) -> Sequence[_DeviceCall]:
        return self._calls

    def sums(self, rows: Sequence[Row]) -> Tensor:
        """Returns for each row, float64 [rows], the sum of the states that it has left: finite only if those are."""
        slots = [
            [state.slot for state in row.run.session.states if 0 < state.position - row.start <= row.num_tokens]
            for row in rows
        ]
        index = to_device(torch.tensor([slot for each in slots for slot in each], dtype=torch.int64), self._device)
        total = torch.zeros(len(index), dtype=torch.float64, device=self._device)
        for tensor in (tensor for tensors in self._tensors for tensor in tensors):
            exact = torch.promote_types(tensor.dtype, torch.float32)
            total += tensor.index_select(0, index).flatten(1).sum(1, dtype=exact)
        return torch.stack([part.sum() for part in total.split([len(each) for each in slots])])


class _Split:
    """What the model calls in the place of a layer's forward."""

    def __init__(
        self, store: StateStore, layer: StateLayer, tensors: Sequence[Tensor], forward: Callable[..., Any]
    ) -> None:
        self._store = store
        self._layer = layer
        self._tensors = tensors
        self._forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        outputs: Any = None
        for each in self._store.calls:
            outputs = _put(outputs, self._run(each, args, kwargs), each.tokens, self._store.num_tokens)
        return outputs

    def _run(self, each: _DeviceCall, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Runs a call's rows through the layer and stores the states that they leave; returns what it returns."""
        size, layer = (len(each.call.stretches), each.call.num_tokens), self._layer
        cached = copy.deepcopy(layer.fresh) if each.call.is_fresh else self._gathered(each.sources)
        num_tokens = self._store.num_tokens
        given = by_place_and_name(args, kwargs)
        own = {key: _select(value, each.tokens, size, num_tokens) for key, value in given.items()}
        output = layer.run(self._forward, own, cached)
        for state, tensor in zip(layer.states, self._tensors, strict=True):
            tensor.index_copy_(0, each.targets, getattr(cached, state.kind)[state.number])
        return output

    def _gathered(self, slots: Tensor) -> Any:
        """Returns transformers' layer of a cache with copies of the states of slots, which a forward may write to."""
        cached = copy.copy(self._layer.used)
        for kind in KINDS:
            setattr(cached, kind, dict(getattr(cached, kind)))
        for state, tensor in zip(self._layer.states, self._tensors, strict=True):
            getattr(cached, state.kind)[state.number] = tensor.index_select(0, slots)
        return cached


def _forward_of(part: nn.Module) -> Callable[..., Any]:
    """Returns the part's own forward, which does not own the part: what the part holds would else be its own owner."""
    replaced = part.__dict__.get("forward")
    if replaced is not None:
        return cast(Callable[..., Any], replaced)
    forward, held = type(part).forward, weakref.ref(part)
    return lambda *args, **kwargs: forward(held(), *args, **kwargs)


def _select(value: Any, tokens: Tensor, size: tuple[int, int], num_tokens: int) -> Any:
    """Returns an argument for some tokens of the batch, [rows, tokens, ...]; what has no entry per token as it is."""
    if is_per_token(value, num_tokens):
        return value[0].index_select(0, tokens).unflatten(0, size)
    if isinstance(value, (tuple, list)):
        return type(value)(_select(part, tokens, size, num_tokens) for part in value)
    return value


def _put(whole: Any, output: Any, tokens: Tensor, num_tokens: int) -> Any:
    """Puts what a layer returned for some tokens into what it returns for the batch, made if None."""
    if isinstance(output, Tensor):
        if whole is None:
            whole = output.new_empty((1, num_tokens, *output.shape[2:]))
        whole[0].index_copy_(0, tokens, output.flatten(0, 1))
        return whole
    wholes = whole or [None] * len(output)
    return tuple(_put(part, out, tokens, num_tokens) for part, out in zip(wholes, output, strict=True))
