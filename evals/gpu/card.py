"""What machine this is: the card and the versions that a figure depends on."""

from __future__ import annotations

import importlib.metadata
import platform

import torch


def card(device: str) -> dict[str, str]:
    """Names the card ("" where there is none, and why), its memory, the driver's CUDA, and versions of packages."""
    versions = ", ".join(f"{name} {_version(name)}" for name in ("torch", "transformers", "triton", "numpy"))
    facts = {"name": "", "why": "", "memory": "", "versions": f"Python {platform.python_version()}, {versions}"}
    if not device.startswith("cuda"):
        return facts
    try:
        properties = torch.cuda.get_device_properties(device)
    except (RuntimeError, AssertionError) as error:  # no driver, no such number, a torch without CUDA
        return facts | {"why": str(error).splitlines()[0]}
    memory = f"{properties.total_memory / 1e9:.0f} GB, CUDA {torch.version.cuda}"
    return facts | {"name": properties.name, "memory": memory}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"
