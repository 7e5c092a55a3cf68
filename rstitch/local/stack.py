"""The whole system on one machine, as child processes: Redis, both workers, the router.

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
from rstitch.local.lock import Lock
from rstitch.local.options import RouterOptions, WorkerOptions
from rstitch.local.part import (
    POLL_S,
    ROOT,
    Part,
    StackError,
    bundled_heads,
    bundled_model,
    default_threads,
    redis_server,
)
from rstitch.local.processes import ChildProcess, free_port, is_free
from rstitch.local.readiness import (
    is_serving,
    is_url,
    redis_answers,
    refuses_connections,
    stuck_because,
    without_secrets,
)
from rstitch.local.reaper import Reaper

__all__ = ["LocalStack", "Part", "RouterOptions", "StackError", "WorkerOptions"]

Role = Literal["slm", "llm"]
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
# Variables that are for the clients on this machine, or for others' stacks: a part's TLS is in its flags, and so is the
# port of its metrics, of which each has its own.
_IN_CLEAR = {
    f"RSTITCH_{name}": "" for name in ("TLS_CERT", "TLS_KEY", "TLS_CLIENT_CA", "TLS_CLIENT_NAME", "METRICS_LISTEN")
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
        *,
        shared_layers: bool = False,
        redis_url: str | None = None,  # of an existing one; None: one of its own, which keeps nothing on disk
        env: Mapping[str, str] | None = None,  # for all parts, such as OTEL_EXPORTER_OTLP_ENDPOINT
        timeout_s: float = 300.0,  # how long a part may take to become ready
        credentials: Credentials = Credentials(),  # to ask router and workers whether they are
        secure: bool = False,  # certificates on every wire and a key, which `credentials` then are
    ) -> None:
        self._shared = shared_layers
        self._workers = {"slm": llm if shared_layers else slm, "llm": llm}
        self._router_options = router
        self._given_redis_url = redis_url
        self._env = dict(env or {})
        self._timeout_s = timeout_s
        self.credentials = credentials
        self._secure = secure
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
        self.folder = Path(tempfile.mkdtemp(prefix="rstitch-"))
        self._reaper.remove(self.folder)
        try:
            self._check_port()
            self._check_redis()
            if self._secure:
                self.lock = Lock.make(self.folder / "lock")
                self.credentials = self.lock.client
            self._add_parts()
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
        except BaseException:
            self.stop()
            raise

    def stop(self, on_progress: Callable[[str], None] = lambda part: None) -> None:
        """Stops all parts, the last started first, and removes the folder."""
        routers = [part for part in self.parts if part.name.startswith("router")]
        workers = [part for part in self.parts if part.name.endswith("worker")]
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
        """Gives the router that the stack was started with; `start_router` returns the others."""
        return self._part("router")

    def worker(self, role: Role) -> Part:
        """Gives the worker of a role; with shared layers one worker has both."""
        return self._part("llm worker" if self._shared else f"{role} worker")

    @property
    def router_address(self) -> str:
        return self.router.address

    @property
    def worker_addresses(self) -> tuple[str, str]:
        """Gives HOST:PORT of the SLM's and of the LLM's worker."""
        return self._shared_address or self.worker("slm").address, self.worker("llm").address

    def log_tail(self, name: str, num_lines: int = 20) -> list[str]:
        """Gives the last lines that a part wrote; none once it is stopped."""
        return [line for part in self.parts if part.name == name for line in part.process.log_tail(num_lines)]

    def start_router(self, *args: str, credentials: Credentials | None = None) -> Part:
        """Starts one more router on the same workers and Redis, with further flags; it is ready when this returns.

        It is asked with `credentials` whether it is (None: those of the stack).
        """
        number = sum(part.name.startswith("router") for part in self.parts) + 1
        part = self._new_router(f"router {number}", free_port(), args, credentials)
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
                       "--save", "", "--appendonly", "no"]
            # fmt: on
            url = self.redis_url
            # A locale that the machine does not have would stop it.
            self._add("redis", command, f"{_LOCALHOST}:{port}", lambda: redis_answers(url), {"LC_ALL": "C"})
        else:
            self.redis_url = self._given_redis_url
        self._shared_address = f"{_LOCALHOST}:{free_port()}" if self._shared else ""
        for role in ("llm",) if self._shared else ("slm", "llm"):
            self._add_worker(role)
        self._new_router("router", self._router_options.port or free_port())

    def _check_port(self) -> None:
        """Refuses a port that is taken at once; the router could say it only after the models are loaded."""
        port = self._router_options.port
        if port and not is_free(port):
            remedy = "Is a stack running already? Else choose another: --port 0 takes a free one."
            raise StackError(f"port {port} is in use.", part="router", remedy=remedy)

    def _check_redis(self) -> None:
        """Refuses a Redis that nobody listens for at once, as a port that is taken."""
        url = self._given_redis_url
        if url is not None and not is_url(url):
            remedy = "Write redis://user:password@host:port/number, and in a password %2F for / and %40 for @."
            raise StackError("--redis is no URL of a Redis.", part="redis", remedy=remedy)
        if url is not None and refuses_connections(url):
            remedy = "Start it, correct --redis, or leave it out: then the stack starts one of its own."
            raise StackError(f"no Redis answers at {without_secrets(url)}.", part="redis", remedy=remedy)

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

    def _add_worker(self, role: str) -> None:
        address = f"{_LOCALHOST}:{free_port()}"
        options = self._workers[role]
        dtype = options.dtype or ("float32" if options.device == "cpu" else "auto")
        threads = str(default_threads() if options.threads is None else options.threads)
        # fmt: off
        command = [sys.executable, "-m", f"{role}_worker", "--model", self._model(role), "--listen", address,
                   "--device", options.device, "--dtype", dtype, "--threads", threads,
                   *(["--shared-listen", self._shared_address] if self._shared else []),
                   *(["--batch-invariant"] if options.batch_invariant else []),
                   *self._sharing_args(role), *self._cores_args(role),
                   *(self.lock.of_worker(role) if self.lock else []), *options.args]
        # fmt: on
        # Threads that wait spin by default: beside another worker's, router's or Redis's they would take the core away.
        env = {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"}
        known = self.lock.prober if self.lock else self.credentials
        self._add(f"{role} worker", command, address, lambda: is_serving(address, _CHECK_TIMEOUT_S, known), env)

    def _model(self, role: str) -> str:
        return self._workers[role].model or bundled_model(f"tiny-{role}")

    def _sharing_args(self, role: str) -> list[str]:
        """Lets two models on one GPU know of each other: caches of as many tokens, steps in turns."""
        devices = {"cuda:0" if worker.device == "cuda" else worker.device for worker in self._workers.values()}
        if self._shared or len(devices) > 1 or "cpu" in devices:
            return []
        other = self._model("llm" if role == "slm" else "slm")
        return ["--beside", other, "--share-device", str(self.folder / "device")]

    def _cores_args(self, role: str) -> list[str]:
        """Lets a worker on the CPU take the cores that the other leaves idle, unless somebody chose its threads."""
        options = self._workers[role]
        chosen = options.threads is not None or "RSTITCH_THREADS" in os.environ
        return [] if chosen or options.device != "cpu" else ["--share-cores", str(self.folder / "cores")]

    def _new_router(
        self, name: str, port: int, args: Sequence[str] = (), credentials: Credentials | None = None
    ) -> Part:
        address = f"{_LOCALHOST}:{port}"
        slm, llm = self.worker_addresses
        options = self._router_options
        # fmt: off
        command = [sys.executable, "-m", options.module, "--slm", slm, "--llm", llm,
                   "--redis", self.redis_url, "--listen", address,
                   *(self.lock.of_router() if self.lock else []), *options.args, *args]
        # fmt: on
        env = {"OMP_NUM_THREADS": "1", "RSTITCH_HEADS": os.environ.get("RSTITCH_HEADS", bundled_heads())}
        known = credentials or self.credentials
        return self._add(name, command, address, lambda: is_serving(address, _CHECK_TIMEOUT_S, known), env)

    def _add(
        self, name: str, command: Sequence[str], address: str, is_ready: Callable[[], bool], env: Mapping[str, str]
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
