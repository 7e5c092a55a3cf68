"""These tests run in processes whose Triton interprets kernels on the CPU (../test_kernels.py), or on a CUDA device."""

from __future__ import annotations

import os

import pytest
import torch

collect_ignore_glob: list[str] = []
if os.environ.get("TRITON_INTERPRET") != "1" and not torch.cuda.is_available():
    collect_ignore_glob.append("test_*.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "kernels" in item.path.parts:
            if os.environ.get("TRITON_INTERPRET") != "1":
                item.add_marker(pytest.mark.gpu)
            # numpy warns of what tiles hold beyond their rows, which is not stored.
            item.add_marker(pytest.mark.filterwarnings("ignore::RuntimeWarning"))


@pytest.fixture
def device() -> torch.device:
    """Where kernels run: the CPU in the interpreter, else the first CUDA device."""
    return torch.device("cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda:0")
