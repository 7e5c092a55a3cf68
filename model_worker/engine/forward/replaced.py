"""Forwards of a model's parts that were replaced, and how to put the parts' own back. It knows no kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

_OWN = "_rstitch_own_forward"


def replace_forward(part: nn.Module, forward: Callable[..., Any]) -> None:
    """Makes `forward` what the part does when it is called, until `restore_forwards`."""
    part.__dict__[_OWN] = True  # not the forward itself: a part that holds it would be its own owner
    part.forward = forward


def is_replaced(part: nn.Module) -> bool:
    """Says whether the part does something else than its own forward."""
    return _OWN in part.__dict__


def restore_forwards(module: nn.Module) -> None:
    """Gives every part of the module its own forward back."""
    for part in module.modules():
        if part.__dict__.pop(_OWN, None) is not None:
            del part.forward
