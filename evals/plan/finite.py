"""Figures as JSON has them: what has no end is null there."""

from __future__ import annotations

import math
from typing import Any


def finite(value: Any) -> Any:
    """Gives the same figures with None for what is infinite or no number, in lists and rows, too."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: finite(each) for name, each in value.items()}
    return [finite(each) for each in value] if isinstance(value, list) else value
