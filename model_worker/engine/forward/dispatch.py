"""Which attention a model's layers call: the one that each of them holds.

transformers looks attention up by name in a table of the process, and what is in that table lives as long as the
process does. So one function of ours is in it, under one name, and calls what the calling layer holds: a backend, and
with it a KV cache, then goes with its model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

Attend = Callable[..., tuple[Tensor, None]]

_NAME = "rstitch"  # no mask is registered under it: transformers then makes none
_PROBE_NAME = "rstitch_probe"
_HELD = "_rstitch_attend"
_makes_masks: ContextVar[Callable[..., Tensor]] = ContextVar("makes_masks")


def use_attention(module: Any, attend: Attend) -> None:
    """Makes the model's layers call `attend` for attention, with no mask, from now on."""
    _hold(module, attend)
    module.set_attn_implementation(_NAME)


@contextmanager
def probed(module: Any, attend: Attend, make_mask: Callable[..., Tensor]) -> Iterator[None]:
    """Makes the model's layers call `attend` for a while, and transformers `make_mask` for each mask."""
    before = module.config._attn_implementation
    _hold(module, attend)
    token = _makes_masks.set(make_mask)
    module.set_attn_implementation(_PROBE_NAME)
    try:
        yield
    finally:
        module.set_attn_implementation(before)
        _makes_masks.reset(token)
        for part in module.modules():
            part.__dict__.pop(_HELD, None)


def _hold(module: nn.Module, attend: Attend) -> None:
    for part in module.modules():  # not every attention layer is told apart by what it is or has
        setattr(part, _HELD, attend)


def _attend(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
    attend: Attend = module._rstitch_attend  # type: ignore[assignment]
    return attend(module, *args, **kwargs)


def _make_mask(**kwargs: Any) -> Tensor:
    return _makes_masks.get()(**kwargs)


AttentionInterface.register(_NAME, _attend)
AttentionInterface.register(_PROBE_NAME, _attend)
AttentionMaskInterface.register(_PROBE_NAME, _make_mask)
