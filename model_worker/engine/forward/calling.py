"""How a transformers model wants to be called, told by what its forward takes."""

from __future__ import annotations

import inspect
from typing import Any


def keeps_logits(module: Any) -> bool:
    """Says whether a model can leave out logits that nobody asked for; one that cannot makes those of all tokens."""
    return "logits_to_keep" in inspect.signature(module.forward).parameters
