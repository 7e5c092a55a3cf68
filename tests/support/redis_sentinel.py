"""A primary, its replica and Sentinels of the tests' own, whose primary can be killed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import redis

from rstitch.local.processes import free_port
from tests.support.redis_process import RedisProcess, redis_binary, wait_for

_SERVICE = "rstitch"
_HOST = "127.0.0.1"


class SentinelProcesses:
    """Two servers, one of them the primary, and Sentinels that make the other one it when it dies.

    Attributes:
        url: that a router is given.
    """

    def __init__(
        self, folder: Path, num_sentinels: int = 1, *, arguments: tuple[str, ...] = (), down_after_ms: int = 500
    ) -> None:
        self._folder = folder
        self._down_after_ms = down_after_ms
        self._sentinels: list[subprocess.Popen[bytes]] = []
        self._ports = [free_port() for _ in range(num_sentinels)]
        self._quorum = num_sentinels // 2 + 1
        self._servers = []
        # Without a pause before the first copy, which a replica waits for.
        arguments = ("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0", *arguments)
        for name in ("first", "second"):
            (place := folder / name).mkdir(parents=True)
            self._servers.append(RedisProcess(place, *arguments))
        self.url = f"redis+sentinel://{','.join(f'{_HOST}:{port}' for port in self._ports)}/{_SERVICE}"

    def __enter__(self) -> SentinelProcesses:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        for sentinel in self._sentinels:
            sentinel.kill()
            sentinel.wait()
        for server in self._servers:
            server.stop()

    def _start(self) -> None:
        for server in self._servers:
            server.start()
        primary, replica = self._servers
        with redis.Redis(port=replica.port) as client:
            client.replicaof(_HOST, primary.port)
        self.wait_for_replica()
        for port in self._ports:
            self._start_sentinel(port)
        wait_for(self._is_whole, "the Sentinels do not find the servers")

    @property
    def primary(self) -> RedisProcess:
        """The server that the Sentinels name."""
        port = self._asked()
        return next(server for server in self._servers if server.port == port)

    @property
    def replica(self) -> RedisProcess:
        """The other one."""
        port = self._asked()
        return next(server for server in self._servers if server.port != port)

    def kill_primary(self) -> RedisProcess:
        """Ends the primary as a crash would, and returns it; the other takes over in a second or two."""
        primary = self.primary
        primary.stop()
        return primary

    @property
    def dead(self) -> list[RedisProcess]:
        return [server for server in self._servers if not server.runs]

    def fail_over(self) -> None:
        """Lets the Sentinels make the other server the primary; the one that was it lives on as a replica."""
        before = self.primary
        port = self._ports[0]
        with redis.Redis(port=port) as client:
            client.execute_command("SENTINEL", "FAILOVER", _SERVICE)
        self.wait_for_failover(before)

        def is_replica() -> bool:
            with redis.Redis(port=before.port) as client:
                return client.role()[0] == b"slave"

        wait_for(is_replica, "the primary that was stays one", 30)  # until then it takes what will be lost
        self.wait_for_replica()

    def wait_for_failover(self, dead: RedisProcess) -> None:
        """Waits until the Sentinels name the other server, and that takes writes."""

        def took_over() -> bool:
            if self._asked() == dead.port:
                return False
            with redis.Redis(port=self.primary.port) as client:
                return bool(client.info("replication")["role"] == "master")

        wait_for(took_over, "nobody takes over", 30)

    def bring_back(self, dead: RedisProcess) -> None:
        """Starts a server again that was killed: empty, and as a replica of the other one."""
        dead.start()
        with redis.Redis(port=dead.port) as client:
            client.replicaof(_HOST, self.primary.port)
        self.wait_for_replica()
        wait_for(self._is_whole, "the Sentinels do not find the server that is back")

    def cut_replica(self) -> None:
        """Lets the replica hear no more of the primary, for some seconds in which no Sentinel mends that."""
        with redis.Redis(port=self.replica.port) as client:
            client.replicaof(_HOST, free_port())

    def wait_for_replica(self) -> None:
        """Waits until the replica has all that the primary has."""

        def follows() -> bool:
            for server in self._servers:
                with redis.Redis(port=server.port) as client:
                    if client.role()[0] == b"master":
                        # Its replica's own word is not enough: for a moment it is taken for online and sent nothing.
                        client.set("rstitch:probe", 1, px=1)
                        return bool(client.wait(1, 100) == 1)
            return False

        wait_for(follows, "the replica does not follow", 30)

    def _start_sentinel(self, port: int) -> None:
        conf = self._folder / f"sentinel-{port}.conf"
        watched = f"sentinel monitor {_SERVICE} {_HOST} {self._servers[0].port} {self._quorum}\n"
        soon = f"sentinel down-after-milliseconds {_SERVICE} {self._down_after_ms}\n"
        again = f"sentinel failover-timeout {_SERVICE} 3000\n"
        conf.write_text(f"port {port}\nbind {_HOST}\ndir {self._folder}\n{watched}{soon}{again}")
        with (self._folder / f"sentinel-{port}.log").open("wb") as log:
            command = [redis_binary(), str(conf), "--sentinel"]
            self._sentinels.append(subprocess.Popen(command, stdout=log, stderr=log))

    def _asked(self) -> int:
        for port in self._ports:
            try:
                with redis.Redis(port=port) as client:
                    found = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", _SERVICE)
                return int(found[1])
            except redis.ConnectionError:
                continue
        raise AssertionError("no Sentinel answers")

    def _is_whole(self) -> bool:
        """Whether each Sentinel knows the replica as one that lives, and the other Sentinels."""
        for port in self._ports:
            try:
                with redis.Redis(port=port) as client:
                    primary = client.sentinel_masters()[_SERVICE]
                    replicas = client.sentinel_slaves(_SERVICE)
            except (redis.ConnectionError, KeyError):
                return False
            living = [each for each in replicas if not (each["is_sdown"] or each["is_disconnected"])]
            if len(living) != 1 or primary["num-other-sentinels"] != len(self._ports) - 1 or primary["is_sdown"]:
                return False
        return True
