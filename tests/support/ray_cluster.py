"""A Ray cluster of small nodes on this machine, with cards that are none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from rstitch.local.processes import free_port

# Without what no test asks: each of these is one more interpreter that imports Ray.
_NODE: dict[str, Any] = {
    "num_cpus": 4,
    "num_gpus": 3,
    "object_store_memory": 80 << 20,
    "include_dashboard": False,
    "no_monitor": True,
    "include_log_monitor": False,
}
_VARIABLES = {
    # What Ray keeps for its next start it would write into the home of whoever tests.
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    # On a machine that does much else its processes take longer to start than it would wait.
    "RAY_agent_register_timeout_ms": "120000",
    "RAY_worker_register_timeout_seconds": "120",
}
_TRIES = 3
LATE = "timed out during startup"  # as Ray says it
WHY_LATE = "Ray does not start: this machine is too busy for the 15 s that Ray gives its own agents"


def node() -> dict[str, Any]:
    """What a node is started with. Its agents' ports are given, as a node waits but 15 s for those that they choose."""
    ports = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
    return {**_NODE, **{name: free_port() for name in ports}}


@contextmanager
def ray_cluster(num_nodes: int = 2) -> Iterator[Any]:
    """Starts a cluster, and ends it with all that it started."""
    before = set(os.environ)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _VARIABLES.items():
            patch.setenv(name, value)
        cluster = _started(num_nodes)
        try:
            yield cluster
        finally:
            cluster.shutdown()
    for name in [name for name in os.environ if name.startswith("RAY_") and name not in before]:
        del os.environ[name]


def _started(num_nodes: int) -> Any:
    """Tries some times: a node ends by itself if one of its agents takes over 15 s to start, which nothing sets."""
    from ray.cluster_utils import Cluster

    for _ in range(_TRIES):
        cluster = Cluster()
        try:
            for _ in range(num_nodes):
                cluster.add_node(**node())
        except Exception as error:
            cluster.shutdown()
            if LATE not in str(error):
                raise
        else:
            return cluster
    pytest.skip(WHY_LATE)
