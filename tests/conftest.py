"""What all tests share: one torch thread (the models are tiny, and threads that spin cost more than they give), and the
order: the laws come first, since they take longest and matter most.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

LAWS = Path(__file__).parent / "laws"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LAWS not in item.path.parents)
