"""The whole system on one machine, as child processes: Redis, both workers, the router, on request the gateway.

    with LocalStack() as stack:
        client = Client(stack.router_address)

Parts can be killed and started again (`stack.worker("llm").kill()`, `.restart()`), for tests. It knows the parts'
command lines and nothing of what they do; it imports none of them.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

from rstitch.credentials import Credentials
from rstitch.local import gateway as http
from rstitch.local.checks import check_port, check_redis
from rstitch.local.lock import Lock
from rstitch.local.options import GatewayOptions, Role, RouterOptions, WorkerOptions
from rstitch.local.part import POLL_S, ROOT, Part, StackError, bundled_heads, redis_server
from rstitch.local.processes import ChildProcess, free_port
from rstitch.local.readiness import is_serving, ready_members, redis_answers, stuck_because
from rstitch.local.reaper import Reaper
from rstitch.local.records import PREFIX, Record
from rstitch.local.workers import Crew, numbered

__all__ = ["GatewayOptions", "LocalStack", "Part", "RouterOptions", "StackError", "WorkerOptions"]

State = Literal["starting", "ready"]
# Called with a part's name, its state and the seconds since it was started; often.
OnProgress = Callable[[str, State, float], None]

_LOCALHOST = "127.0.0.1"
_CHECK_TIMEOUT_S = 1.0
# A part that is told to end may take so long before it is killed.
_STOP_GRACE_S = 10.0
# So long a router may go without what it needs once both workers answer; it looks for Redis every two seconds.
_STUCK_S = 5.0
_LOOK_S = 0.5
# Not a flag, which everybody on the machine may read: there may be a password in it.
_REDIS = "RSTITCH_REDIS"
# Variables that are for the clients on this machine, or for others' stacks: a part's TLS is in its flags, and so is the
# port of its metrics, of which each has its own.
_IN_CLEAR = {
    f"RSTITCH_{name}": ""
    for name in ("TLS_CERT", "TLS_KEY", "TLS_CLIENT_CA", "TLS_CLIENT_NAME", "METRICS_LISTEN", "REDIS", "ADVERTISE")
}


class LocalStack:
    """Redis, an SLM worker, an LLM worker and a router on this machine; a context manager.

    With `shared_layers` the SLM is the LLM's first layers, and the LLM's worker serves both; `slm` says nothing then.
    Logs are files below `folder`, which is removed at the end.
    """

    def __init__(
        self,
        slm: WorkerOptions = WorkerOptions(),
        llm: WorkerOptions = WorkerOptions(),
        router: RouterOptions = RouterOptions(),
        gateway: GatewayOptions | None = None,
        *,
        num_slm: int = 1,  # workers of the role; of several, routers learn in Redis
        num_llm: int = 1,
        num_routers: int = 1,
        metrics_port: int | None = None,  # the router's is scraped there, the others' at the ports after it
        shared_layers: bool = False,
        redis_url: str | None = None,  # of an existing one; None: one of its own
        env: Mapping[str, str] | None = None,  # for all parts, such as OTEL_EXPORTER_OTLP_ENDPOINT
        timeout_s: float = 300.0,  # how long a part may take to become ready
        credentials: Credentials = Credentials(),  # to ask router and workers whether they are
        secure: bool = False,  # certificates on every wire and a key, which `credentials` then are
        durable: bool = False,  # its own Redis can be restarted: it writes all it is told below `folder`
    ) -> None:
        self._shared = shared_layers
        counts = {"slm": num_llm if shared_layers else num_slm, "llm": num_llm}
        self._crew = Crew({"slm": llm if shared_layers else slm, "llm": llm}, counts, shared_layers)
        self._num_routers = num_routers
        self._metrics_ports = self._crew.metrics_ports(metrics_port, num_routers)
        self._router_options = router
        self._gateway = gateway
        self._given_redis_url = redis_url
        self._env = dict(env or {})
        self._timeout_s = timeout_s
        self.credentials = credentials
        self._secure = secure
        self._durable = durable
        # What locks it, once it is started; None: nothing does.
        self.lock: Lock | None = None
        # In the order of starting.
        self.parts: list[Part] = []
        self._stuck_since: float | None = None
        self._next_look = 0.0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.stop()

    def start(self, on_progress: OnProgress = lambda part, state, seconds: None) -> None:
        """Starts all parts and waits until the router takes questions. Raises: StackError, with nothing left behind."""
        self._reaper = Reaper()
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._reaper.remove(self.folder)
        try:
            check_port(self._router_options.port, "router", "choose another: --port 0 takes a free one.")
            if self._gateway is not None and self._gateway.listen:
                port = int(self._gateway.listen.rpartition(":")[2])
                check_port(port, "gateway", "choose another with --http-listen, or leave the gateway out: --no-http.")
            check_redis(self._given_redis_url)
            if self._secure:
                self.lock = Lock.make(self.folder / "lock")
                self.credentials = self.lock.client
            self._add_parts()
            Record(self.folder, os.getpid(), self.router_address).write()
            waiting = list(self.parts)
            for part in waiting:
                part.start()
            while waiting:
                for part in list(waiting):
                    ready = part.check()
                    on_progress(part.name, "ready" if ready else "starting", part.seconds)
                    if ready:
                        waiting.remove(part)
                if waiting == [self.router]:
                    self._check_router()
                time.sleep(POLL_S)
            if not self._crew.is_pair:
                self._wait_for_members()
        except BaseException:
            self.stop()
            raise

    def stop(self, on_progress: Callable[[str], None] = lambda part: None) -> None:
        """Stops all parts, the last started first, and removes the folder."""
        routers = [part for part in self.parts if part.name.startswith(("gateway", "router"))]
        workers = [part for part in self.parts if " worker" in part.name]
        rest = [part for part in self.parts if part not in routers + workers]
        for group in (routers, workers, rest):
            for part in group:
                on_progress(part.name)
                part.process.terminate()
            for part in group:
                part.process.wait_or_kill(_STOP_GRACE_S)
        self.parts.clear()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._reaper.close()

    def check(self) -> None:
        """Looks at every part. Raises: StackError if one has ended by itself."""
        for part in self.parts:
            if part.process.exit_code is not None:
                part.check()

    @property
    def router(self) -> Part:
        """Gives the first router that the stack was started with; `start_router` returns one that is added."""
        return self._part("router")

    @property
    def routers(self) -> list[Part]:
        """Gives all routers, the first one first."""
        return [part for part in self.parts if part.name.partition(" ")[0] == "router"]

    def worker(self, role: Role, index: int = 0) -> Part:
        """Gives a worker of a role, counted from 0; with shared layers one worker has both roles."""
        return self._part(numbered("llm worker" if self._shared else f"{role} worker", index))

    @property
    def router_address(self) -> str:
        return self.router.address

    @property
    def has_gateway(self) -> bool:
        return self._gateway is not None

    @property
    def gateway(self) -> Part:
        """Gives the gateway, where the stack was to have one."""
        return self._part("gateway")

    @property
    def worker_addresses(self) -> tuple[str, str]:
        """Gives HOST:PORT of the SLM's and of the LLM's worker, the first of each."""
        return self._shared_address or self.worker("slm").address, self.worker("llm").address

    def log_tail(self, name: str, num_lines: int = 20) -> list[str]:
        """Gives the last lines that a part wrote; none once it is stopped."""
        return [line for part in self.parts if part.name == name for line in part.process.log_tail(num_lines)]

    def start_router(self, *args: str, credentials: Credentials | None = None) -> Part:
        """Starts one more router on the same workers and Redis, with further flags; it is ready when this returns.

        It is asked with `credentials` whether it is (None: those of the stack).
        """
        part = self._new_router(numbered("router", len(self.routers)), free_port(), args, credentials)
        part.start()
        part.wait_ready()
        return part

    def _part(self, name: str) -> Part:
        return next(part for part in self.parts if part.name == name)

    def _add_parts(self) -> None:
        if self._given_redis_url is None:
            port = free_port()
            self.redis_url = f"redis://{_LOCALHOST}:{port}/0"
            # fmt: off
            command = [redis_server(), "--port", str(port), "--bind", _LOCALHOST, "--dir", str(self.folder),
                       "--save", "", "--appendonly", "yes" if self._durable else "no"]
            # fmt: on
            url = self.redis_url
            # A locale that the machine does not have would stop it.
            self._add("redis", command, f"{_LOCALHOST}:{port}", lambda: redis_answers(url), {"LC_ALL": "C"})
        else:
            self.redis_url = self._given_redis_url
        self._shared_address = ""
        for role, index in self._crew.members:
            self._add_worker(role, index)
        for index in range(self._num_routers):
            port = 0 if index else self._router_options.port
            name = numbered("router", index)
            self._new_router(name, port or free_port(), self._metrics_args(name))
        if self._gateway is not None:
            self._add_gateway(self._gateway)

    def _check_router(self) -> None:
        """Gives up on a router that will not become ready by itself, unlike one that waits for a worker."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_S
        why = stuck_because(self.router.address, credentials=self.credentials)
        if not why:
            self._stuck_since = None
        elif self._stuck_since is None:
            self._stuck_since = now
        elif now - self._stuck_since > _STUCK_S:
            log = self.router.process.log_tail()
            raise StackError(f"the router takes no questions: {why}", part="router", log=log)

    def _wait_for_members(self) -> None:
        """Waits until each router knows all workers: one is ready as soon as it has a pair."""
        deadline = time.monotonic() + self._timeout_s
        for part in self.routers:
            while ready_members(part.address, credentials=self.credentials) != self._crew.counts:
                self.check()
                if time.monotonic() > deadline:
                    raise StackError(f"the {part.name} does not know all workers.", part=part.name)
                time.sleep(POLL_S)

    def _add_worker(self, role: Role, index: int) -> None:
        name = numbered(f"{role} worker", index)
        address, shared_address = (f"{_LOCALHOST}:{free_port()}" for _ in range(2))
        self._shared_address = self._shared_address or (shared_address if self._shared else "")
        # fmt: off
        command = [*self._crew.command(role, index, address, shared_address, self.folder),
                   *self._crew.joining_args(role, index, self.folder.name),
                   *(self.lock.of_worker(role) if self.lock else []),
                   *self._metrics_args(name), *self._crew.options[role].args]
        # fmt: on
        # Threads that wait spin by default: beside another worker's, router's or Redis's they would take the core away.
        env = {"OMP_NUM_THREADS": self._crew.threads(role), "OMP_WAIT_POLICY": "PASSIVE"}
        if not self._crew.is_pair:
            env[_REDIS] = self.redis_url
        known = self.lock.prober if self.lock else self.credentials
        self._add(name, command, address, lambda: is_serving(address, _CHECK_TIMEOUT_S, known), env)

    def _metrics_args(self, name: str) -> list[str]:
        return [f"--metrics-listen={_LOCALHOST}:{port}"] if (port := self._metrics_ports.get(name)) else []

    def _new_router(
        self, name: str, port: int, args: Sequence[str] = (), credentials: Credentials | None = None
    ) -> Part:
        address = f"{_LOCALHOST}:{port}"
        options = self._router_options
        slm, llm = self.worker_addresses if self._crew.is_pair else ("", "")
        fleet = [] if self._crew.is_pair else ["--fleet", self.folder.name]
        # fmt: off
        command = [sys.executable, "-m", options.module, "--slm", slm, "--llm", llm, *fleet,
                   "--listen", address, *(self.lock.of_router() if self.lock else []),
                   *options.args, *args]
        # fmt: on
        heads = os.environ.get("RSTITCH_HEADS", bundled_heads())
        env = {"OMP_NUM_THREADS": "1", "RSTITCH_HEADS": heads, _REDIS: self.redis_url}
        known = credentials or self.credentials
        return self._add(name, command, address, lambda: is_serving(address, _CHECK_TIMEOUT_S, known), env)

    def _add_gateway(self, options: GatewayOptions) -> None:
        listen = options.listen or f"{_LOCALHOST}:{free_port()}"
        command = http.command(options, listen, ",".join(part.address for part in self.routers), self.lock)
        self._add("gateway", command, listen, lambda: http.answers(listen, self.lock, _CHECK_TIMEOUT_S))

    def _add(
        self, name: str, command: Sequence[str], address: str, is_ready: Callable[[], bool], env: Mapping[str, str] = {}
    ) -> Part:
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        own = {
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONUNBUFFERED": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "TMPDIR": str(self.folder),  # what a part leaves there (torch does) goes with the folder
            **_IN_CLEAR,
        }
        log_path = self.folder / f"{name.replace(' ', '-')}.log"
        process = ChildProcess(name, command, {**own, **env, **self._env}, log_path, self._reaper)
        part = Part(process, address, is_ready, self._timeout_s)
        self.parts.append(part)
        return part
