"""Heads for tests: of any size, drawn or decided."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from rstitch.service.head import Head, HeadFacts, num_inputs


def random_head(
    hidden_size: int,
    seed: int = 0,
    bias: float = 0.0,
    fingerprint: str = "",
    tau: float = 0.1,
    features: tuple[str, ...] = (),
) -> Head:
    """Weights from a seed; `bias` leans towards the LLM."""
    rng = np.random.default_rng(seed)
    num = num_inputs(hidden_size, has_readout=False, features=features)
    sizes = [num, 16, 2]
    layers = [
        (rng.normal(0, 1 / np.sqrt(a), (b, a)).astype(np.float32), np.zeros(b, np.float32)) for a, b in pairwise(sizes)
    ]
    layers[-1][1][1] = bias
    mean, std = np.zeros(num, np.float32), np.ones(num, np.float32)
    std[hidden_size] = 100  # the context length
    return Head(HeadFacts(hidden_size, fingerprint, tau, features=features), mean, std, layers)


def put(folder: Path, name: str, head: Head) -> Path:
    """Into a folder of heads."""
    path = folder / name / "head.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head.data)
    return path
