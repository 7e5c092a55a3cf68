"""A Ray cluster of two small nodes on this machine, with cards that are none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_NODE: dict[str, Any] = {
    "num_cpus": 4,
    "num_gpus": 2,
    "object_store_memory": 80 << 20,
    "include_dashboard": False,
}


@contextmanager
def ray_cluster(monkeypatch: pytest.MonkeyPatch, num_nodes: int = 2) -> Iterator[Any]:
    """Starts a cluster, and ends it with all that it started."""
    # What Ray keeps for its next start it would write into the home of whoever tests.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=_NODE)
    try:
        for _ in range(num_nodes - 1):
            cluster.add_node(**_NODE)
        yield cluster
    finally:
        cluster.shutdown()
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            monkeypatch.delenv(name, raising=False)
