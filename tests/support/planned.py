"""Models to plan with: steps that are a straight line, and the file of a pair that was measured."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Linear:
    """Steps that take so much, more by the row and more by each other token."""

    base_s: float
    row_s: float = 0.0
    other_s: float = 0.0

    def step_s(self, rows: int, other_tokens: float, context: float) -> float:
        return self.base_s + self.row_s * rows + self.other_s * other_tokens


def latency_file(folder: Path, **changed: Any) -> Path:
    """Writes a latency model of two models that take 1 ms a step of one row, 2 of eight, 3 of 64 tokens."""
    model = {
        "prefill": {"a": 0, "b": 0, "c": 0.01, "d": 1}, "decode": {"c": 0.0001, "d": 1.0},
        "step_costs": [[1, 1, 1000], [8, 1, 2000], [1, 64, 3000]], "kv_tokens": 50_000, "max_batch_tokens": 64,
    } | changed  # fmt: skip
    path = folder / "latency.json"
    path.write_text(json.dumps({"slm": model, "llm": model, "serving": None}))
    return path
