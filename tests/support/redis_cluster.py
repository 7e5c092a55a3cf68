"""A Redis Cluster of the tests' own: a few primaries, with a replica each where one is to take over."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import redis

from rstitch.local.processes import free_port
from tests.support.redis_process import RedisProcess, wait_for

_HOST = "127.0.0.1"
_NUM_SLOTS = 16384
_BUS = 10_000  # a node talks to the others on its port and so much


class ClusterProcesses:
    """Some primaries that share the slots evenly.

    Attributes:
        url: that a router is given; it names one node, and the client finds the others.
    """

    def __init__(
        self,
        folder: Path,
        num_primaries: int = 3,
        num_replicas: int = 0,
        *,
        arguments: Sequence[str] = (),
        login: tuple[str | None, str | None] = (None, None),
    ) -> None:
        self._login = login
        self._primaries = [self._node(folder / f"primary-{number}", arguments) for number in range(num_primaries)]
        self._replicas = [self._node(folder / f"replica-{number}", arguments) for number in range(num_replicas)]
        self.url = f"redis+cluster://{_HOST}:{self._primaries[0].port}"

    def __enter__(self) -> ClusterProcesses:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        for node in (*self._primaries, *self._replicas):
            node.stop()

    def _start(self) -> None:
        for node in (*self._primaries, *self._replicas):
            node.start()
        num = len(self._primaries)
        bounds = [_NUM_SLOTS * place // num for place in range(num + 1)]
        first = self._primaries[0]
        for place, node in enumerate(self._primaries):
            with self._client(node) as client:
                client.execute_command("CLUSTER", "ADDSLOTS", *range(bounds[place], bounds[place + 1]))
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", place + 1)
        for node in (*self._primaries[1:], *self._replicas):
            with self._client(node) as client:
                client.execute_command("CLUSTER", "MEET", _HOST, first.port)
        wait_for(self.is_whole, "the cluster does not come together", 30)
        for primary, replica in zip(self._primaries, self._replicas, strict=False):
            with self._client(primary) as client:
                node_id = client.execute_command("CLUSTER", "MYID")
            with self._client(replica) as client:
                client.execute_command("CLUSTER", "REPLICATE", node_id)
        wait_for(self._replicas_follow, "the replicas do not follow", 30)

    @property
    def primaries(self) -> list[RedisProcess]:
        """Those that were primaries at the beginning."""
        return self._primaries

    def flush(self) -> None:
        """Forgets all that is kept."""
        for node in self._primaries:
            with self._client(node) as client:
                client.flushall()

    def keys(self) -> dict[int, list[str]]:
        """All keys by the port of the primary that has them."""
        found = {}
        for node in self._primaries:
            with self._client(node) as client:
                found[node.port] = sorted(client.scan_iter(count=1000))
        return found

    def hold_failovers(self, hold: bool) -> None:
        """Lets no replica take over, or lets them do so again."""
        for node in self._replicas:
            with self._client(node) as client:
                client.config_set("cluster-replica-no-failover", "yes" if hold else "no")

    def is_whole(self) -> bool:
        """Whether every node that lives finds all slots covered and knows the others."""
        num = len(self._primaries) + len(self._replicas)
        for node in (*self._primaries, *self._replicas):
            if not node.runs:
                continue
            with self._client(node) as client:
                info = client.execute_command("CLUSTER", "INFO")
            if not {"cluster_state:ok", f"cluster_known_nodes:{num}"} <= set(info.split()):
                return False
        return True

    def _replicas_follow(self) -> bool:
        for node in self._replicas:
            with self._client(node) as client:
                if client.info("replication").get("master_link_status") != "up":
                    return False
        return True

    def _client(self, node: RedisProcess) -> redis.Redis:
        user, password = self._login
        return redis.Redis(port=node.port, username=user, password=password, decode_responses=True)

    def _node(self, folder: Path, more: Sequence[str]) -> RedisProcess:
        folder.mkdir(parents=True)
        arguments = [*more, "--cluster-enabled", "yes", "--cluster-node-timeout", "1000"]
        # Slots whose primary is gone keep those of others from nothing.
        arguments += ["--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0"]
        return RedisProcess(folder, *arguments, port=_port_with_a_bus())


def _port_with_a_bus() -> int:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        port = free_port()
        if port + _BUS < 65536:
            with closing(socket.socket()) as bus:
                try:
                    bus.bind((_HOST, port + _BUS))
                except OSError:
                    continue
            return port
    raise AssertionError("no port is free together with that of its bus")
