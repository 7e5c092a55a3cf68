"""Which parts of a model keep states from token to token, and what they keep: found by running it with a noting cache.

A part is whatever forward asks transformers' cache for the states of recurrences and convolutions. Nothing here is a
list of model classes. What cannot be split by session is refused by name.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.step_cache import RowsCache, StepCache

KINDS = ("conv_states", "recurrent_states")  # as transformers' layers of a cache call them, by a number each

# More than the difference that rounding makes in float32, and less than a state does that is left out.
_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class StateShape:
    """A state that a layer keeps per session."""

    kind: str  # of KINDS
    number: int
    size: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return torch.Size(self.size).numel() * self.dtype.itemsize


@dataclass(frozen=True, slots=True, eq=False)
class StateLayer:
    """A part of a model that keeps states."""

    part: str  # its name in the model
    layer: int  # by which it asks for them
    cache_at: int | str  # which of its arguments the cache is: a place or a name
    states: tuple[StateShape, ...]
    fresh: Any  # transformers' layer of a cache, without states
    used: Any  # likewise, as a forward leaves it: with states, which are to be replaced
    continues: bool = True  # whether it goes on from its states with several tokens at once as with one after another

    def run(self, forward: Callable[..., Any], arguments: Mapping[int | str, Any], cached: Any) -> Any:
        """Calls the part's forward with arguments by place and name, and with a cache of the layer `cached`."""
        given = {**arguments, self.cache_at: RowsCache(self.layer, cached)}
        places = sorted(key for key in given if isinstance(key, int))
        named = {key: value for key, value in given.items() if isinstance(key, str)}
        return forward(*(given[place] for place in places), **named)


def is_per_token(value: Any, num_tokens: int) -> bool:
    """Returns whether an argument of a part has an entry for each token of the batch, as [1, tokens, ...]."""
    return isinstance(value, Tensor) and value.shape[:2] == (1, num_tokens)


def by_place_and_name(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[int | str, Any]:
    """Returns the arguments of a call."""
    arguments: dict[int | str, Any] = dict(enumerate(args))
    arguments.update(kwargs)
    return arguments


class _KeepsMoreError(UnsupportedModel, AttributeError):
    """A layer would keep something of its own, as keys of an index over tokens. `hasattr` may ask for that."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name}: layers that keep more than keys, values and states are not supported")


class _NoLayers(list[Any]):
    """What a layer gets that asks for its part of a cache."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def __getitem__(self, index: Any) -> Any:
        raise _KeepsMoreError(self._name)


class StateNotes(StepCache):
    """The cache of a forward that notes which part asks for which states, and keeps them as transformers does."""

    def __init__(self, positions: Tensor, config: Any, name: str) -> None:
        self._name = name
        super().__init__(positions)
        self.layers = _NoLayers(name)
        self.was_asked = False
        self._num_tokens = positions.shape[1]
        self._config = config
        self._names: dict[nn.Module, str] = {}
        self._calls: list[_Call] = []  # the forwards that are going on, the innermost last
        self._found: dict[nn.Module, _Call] = {}
        self._kept: Any = None  # transformers' own cache, made when it is needed
        self._fresh: list[Any] = []  # its layers, without states
        self._continues: dict[type[nn.Module], bool] = {}

    @contextmanager
    def noting(self, module: nn.Module) -> Iterator[None]:
        """Follows the forwards of the module's parts."""
        handles = []
        for name, part in module.named_modules():
            self._names[part] = name
            handles.append(part.register_forward_pre_hook(self._enter, with_kwargs=True))
            handles.append(part.register_forward_hook(self._leave, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def found(self) -> list[StateLayer]:
        """Returns the parts that have asked for states. Raises UnsupportedModel."""
        return [self._layer(call) for call in self._found.values()]

    def attends(self) -> None:
        """Is told that attention is computed now."""
        for call in self._calls:
            call.attends = True

    def get_seq_length(self, layer_idx: int = 0) -> Any:
        self.was_asked = True
        return super().get_seq_length(layer_idx)

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> Any:
        return self._noted(layer_idx, state_idx).get_conv_state(layer_idx, state_idx)

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Any:
        return self._noted(layer_idx, state_idx).get_recurrent_state(layer_idx, state_idx)

    def update_conv_state(self, conv_states: Tensor, layer_idx: int, state_idx: int = 0, **kwargs: Any) -> Any:
        return self._noted(layer_idx, state_idx).update_conv_state(conv_states, layer_idx, state_idx, **kwargs)

    def update_recurrent_state(
        self, recurrent_states: Tensor, layer_idx: int, state_idx: int = 0, **kwargs: Any
    ) -> Any:
        kept = self._noted(layer_idx, state_idx)
        return kept.update_recurrent_state(recurrent_states, layer_idx, state_idx, **kwargs)

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        return False

    def is_recording_past(self, layer_idx: int) -> bool:
        return False

    def __getattr__(self, attribute: str) -> Any:
        raise _KeepsMoreError(self._name)

    def _noted(self, layer: int, number: int) -> Any:
        """Notes that the part that is called now asks for a state; returns the cache that has it."""
        if self._kept is None:
            self._kept = DynamicCache(config=self._config)
            self._fresh = copy.deepcopy(self._kept.layers)
        if layer >= len(self._fresh) or not all(hasattr(self._fresh[layer], kind) for kind in KINDS):
            raise self._unsupported("keep states that transformers' cache has no place for")
        call = self._calls[-1]
        if self._found.setdefault(call.module, call) is not call or call.numbers.keys() - {layer}:
            raise self._unsupported("keep states of several layers")
        call.numbers.setdefault(layer, set()).add(number)
        return self._kept

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._calls.append(_Call(module, by_place_and_name(args, kwargs)))

    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self._calls.pop().output = output

    def _layer(self, call: _Call) -> StateLayer:
        if call.attends:
            raise self._unsupported("keep states around attention")
        places = [place for place, value in call.arguments.items() if value is self]
        tensors = [value for value in _flat(list(call.arguments.values())) if isinstance(value, Tensor)]
        if not tensors or not all(is_per_token(value, self._num_tokens) for value in tensors):
            raise self._unsupported("keep states and are given what is not one entry per token")
        if not all(is_per_token(value, self._num_tokens) for value in _flat(call.output)):
            raise self._unsupported("keep states and return what is not one entry per token")
        ((layer, numbers),) = call.numbers.items()
        used = self._kept.layers[layer]
        states = tuple(
            StateShape(kind, number, tuple(value.shape[1:]), value.dtype)
            for kind in KINDS
            for number, value in getattr(used, kind).items()
            if number in numbers and value is not None
        )
        if len(places) != 1 or not states:
            raise self._unsupported("keep states elsewhere than in the cache")
        found = StateLayer(self._names[call.module], layer, places[0], states, self._fresh[layer], used)
        kind = type(call.module)
        if kind not in self._continues:
            self._continues[kind] = _continues(call.module, found, call.arguments)
        return replace(found, continues=self._continues[kind])

    def _unsupported(self, what: str) -> UnsupportedModel:
        return UnsupportedModel(f"{self._name}: layers that {what} are not supported")


@dataclass(slots=True, eq=False)
class _Call:
    """A forward of a part."""

    module: nn.Module
    arguments: dict[int | str, Any]
    output: Any = None
    attends: bool = False
    numbers: dict[int, set[int]] = field(default_factory=dict)  # of the states that it asked for, by layer


def _continues(own: nn.Module, layer: StateLayer, arguments: Mapping[int | str, Any]) -> bool:
    """Tries whether a part, after some tokens, gives the same after the same ones again as it does for all at once."""
    if any(parameter.is_meta for parameter in own.parameters()):  # without weights nothing can be tried
        return True
    # In 16 bits rounding would hide what is left out.
    module = copy.deepcopy(own).float() if _is_half(own) else own

    def given(times: int) -> dict[int | str, Any]:
        return {key: _repeated(value, times, exact=module is not own) for key, value in arguments.items()}

    with torch.inference_mode():
        whole = _flat(layer.run(module.forward, given(2), copy.deepcopy(layer.fresh)))
        cached = copy.deepcopy(layer.fresh)
        once = _flat(layer.run(module.forward, given(1), cached))
        again = _flat(layer.run(module.forward, given(1), cached))
    off = size = 0.0
    for both, first, second in zip(whole, once, again, strict=True):
        expected = both[:, first.shape[1] :].double()
        off += float(torch.linalg.vector_norm(second.double() - expected))
        size += float(torch.linalg.vector_norm(expected))
    return off <= _TOLERANCE * size


def _is_half(module: nn.Module) -> bool:
    return any(parameter.dtype in (torch.bfloat16, torch.float16) for parameter in module.parameters())


def _repeated(value: Any, times: int, *, exact: bool) -> Any:
    """Returns an argument for tokens that come so many times; with `exact` numbers as float32."""
    if isinstance(value, (tuple, list)):
        return type(value)(_repeated(part, times, exact=exact) for part in value)
    if not isinstance(value, Tensor):
        return value
    return torch.cat([value.float() if exact and value.is_floating_point() else value] * times, dim=1)


def _flat(value: Any) -> list[Any]:
    if isinstance(value, (tuple, list)):
        return [item for part in value for item in _flat(part)]
    return [value]
