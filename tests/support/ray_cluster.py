"""A Ray cluster of small nodes on this machine, with cards that are none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

# Without what no test asks: each of these is one more interpreter that imports Ray.
NODE: dict[str, Any] = {
    "num_cpus": 4,
    "num_gpus": 3,
    "object_store_memory": 80 << 20,
    "include_dashboard": False,
    "no_monitor": True,
    "include_log_monitor": False,
}
_TRIES = 3


@contextmanager
def ray_cluster(num_nodes: int = 2) -> Iterator[Any]:
    """Starts a cluster, and ends it with all that it started."""
    with pytest.MonkeyPatch.context() as patch:
        # What Ray keeps for its next start it would write into the home of whoever tests.
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = _started(num_nodes)
        try:
            yield cluster
        finally:
            cluster.shutdown()
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            patch.delenv(name)


def _started(num_nodes: int) -> Any:
    """A node is given up by Ray itself after 30 s, which on a machine that does much else it may take."""
    from ray.cluster_utils import Cluster

    for _ in range(_TRIES):
        cluster = Cluster()
        try:
            for _ in range(num_nodes):
                cluster.add_node(**NODE)
        except Exception as error:  # noqa: BLE001 - it raises nothing narrower
            cluster.shutdown()
            last = error
        else:
            return cluster
    raise last
