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
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit

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
from rstitch.local.processes import ChildProcess, Guard, free_port, is_free
from rstitch.local.readiness import is_serving, redis_answers, refuses_connections, stuck_because

__all__ = ["LocalStack", "Part", "StackError"]

Role = Literal["slm", "llm"]
State = Literal["starting", "ready"]
# Called with a part's name, its state and the seconds since it was started; often.
OnProgress = Callable[[str, State, float], None]

_LOCALHOST = "127.0.0.1"
_CHECK_TIMEOUT_S = 1.0
# So long a router may go without what it needs once both workers answer; it looks for Redis every two seconds.
_STUCK_S = 5.0
_LOOK_S = 0.5


class LocalStack:
    """Redis, an SLM worker, an LLM worker and a router on this machine; a context manager.

    Args:
        slm_model, llm_model: folders or hub ids; None: the bundled tiny pair.
        shared_model: folder of a model with shared layers, which one worker serves as both; instead of the two.
        device: of both workers (`cpu`, `cuda:N`); `slm_device`, `llm_device` for each.
        dtype: None: float32 on CPU, auto on CUDA.
        router_port: 0: a free one.
        redis_url: an existing Redis; None: one of its own, which keeps nothing on disk.
        otlp_endpoint: where traces go; None: nowhere.
        threads: CPU threads of each worker; None: RSTITCH_THREADS, else half of the machine's.
        worker_args, slm_args, llm_args, router_args: more flags of both workers, of one, of the router.
        router_module: what is run as the router.
        env: more variables for all parts.
        timeout_s: how long a part may take to become ready.
        stop_grace_s: how long a part may take to end before it is killed.

    Logs are files below `folder`, which is removed at the end.
    """

    def __init__(
        self,
        *,
        slm_model: str | None = None,
        llm_model: str | None = None,
        shared_model: str | None = None,
        device: str = "cpu",
        slm_device: str | None = None,
        llm_device: str | None = None,
        dtype: str | None = None,
        router_port: int = 0,
        redis_url: str | None = None,
        otlp_endpoint: str | None = None,
        threads: int | None = None,
        worker_args: Sequence[str] = (),
        slm_args: Sequence[str] = (),
        llm_args: Sequence[str] = (),
        router_args: Sequence[str] = (),
        router_module: str = "router_svc",
        env: Mapping[str, str] | None = None,
        timeout_s: float = 300.0,
        stop_grace_s: float = 10.0,
    ) -> None:
        if shared_model is not None and (slm_model or llm_model):
            raise StackError("a shared model is both models.", remedy="Name it alone, or name two models.")
        self._shared = shared_model is not None
        self._models = {
            "slm": shared_model or slm_model or bundled_model("tiny-slm"),
            "llm": shared_model or llm_model or bundled_model("tiny-llm"),
        }
        self._devices = {"slm": slm_device or device, "llm": llm_device or device}
        self._dtype = dtype
        self._router_port = router_port
        self._given_redis_url = redis_url
        self._telemetry_args = ["--otlp-endpoint", otlp_endpoint] if otlp_endpoint else []
        self._threads = threads if threads is not None else default_threads()
        self._worker_args = {"slm": [*worker_args, *slm_args], "llm": [*worker_args, *llm_args]}
        self._router_args = list(router_args)
        self._router_module = router_module
        self._env = dict(env or {})
        self._timeout_s = timeout_s
        self._stop_grace_s = stop_grace_s
        # In the order of starting.
        self.parts: list[Part] = []
        self._stuck_since: float | None = None
        self._next_look = 0.0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def start(self, on_progress: OnProgress = lambda part, state, seconds: None) -> None:
        """Starts all parts and waits until the router takes questions. Raises: StackError, with nothing left behind."""
        self._guard = Guard()
        self.folder = Path(tempfile.mkdtemp(prefix="rstitch-"))
        self._guard.remove(self.folder)
        try:
            self._check_port()
            self._check_redis()
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
                part.process.wait_or_kill(self._stop_grace_s)
        self.parts.clear()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._guard.close()

    def check(self) -> None:
        """Raises: StackError if a part has ended by itself."""
        for part in self.parts:
            if part.process.exit_code is not None:
                part.check()

    @property
    def router(self) -> Part:
        """The (first) router."""
        return self._part("router")

    def worker(self, role: Role) -> Part:
        """The worker of a role; with a shared model the same of both."""
        role = "llm" if self._shared else role
        return self._part(f"{role} worker")

    @property
    def router_address(self) -> str:
        """HOST:PORT of the router."""
        return self.router.address

    @property
    def worker_addresses(self) -> tuple[str, str]:
        """HOST:PORT of the SLM's and of the LLM's worker."""
        return self._shared_address or self.worker("slm").address, self.worker("llm").address

    def log_tail(self, name: str, num_lines: int = 20) -> list[str]:
        """The last lines that a part wrote; none once it is stopped."""
        return [line for part in self.parts if part.name == name for line in part.process.log_tail(num_lines)]

    def start_router(self, *args: str) -> Part:
        """One more router on the same workers and Redis, with further flags; ready when this returns."""
        number = sum(part.name.startswith("router") for part in self.parts) + 1
        part = self._new_router(f"router {number}", free_port(), args)
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
        self._new_router("router", self._router_port or free_port())

    def _check_port(self) -> None:
        """Said at once; the router itself could say it only after the models are loaded."""
        if self._router_port and not is_free(self._router_port):
            raise StackError(
                f"port {self._router_port} is in use.",
                part="router",
                remedy="Is a stack running already? Else choose another: --port 0 takes a free one.",
            )

    def _check_redis(self) -> None:
        """Said at once, as of the port."""
        url = self._given_redis_url
        if url is not None and refuses_connections(url):
            parts = urlsplit(url)
            raise StackError(
                f"no Redis answers at {parts._replace(netloc=parts.netloc.rpartition('@')[2]).geturl()}.",
                part="redis",
                remedy="Start it, correct --redis, or leave it out: then the stack starts one of its own.",
            )

    def _check_router(self) -> None:
        """Raises: StackError if the router will not become ready by itself, which it does while a worker is away."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_S
        why = stuck_because(self.router.address)
        if not why:
            self._stuck_since = None
        elif self._stuck_since is None:
            self._stuck_since = now
        elif now - self._stuck_since > _STUCK_S:
            log = self.router.process.log_tail()
            raise StackError(f"the router takes no questions: {why}", part="router", log=log)

    def _add_worker(self, role: str) -> None:
        address = f"{_LOCALHOST}:{free_port()}"
        device = self._devices[role]
        dtype = self._dtype or ("float32" if device == "cpu" else "auto")
        # fmt: off
        command = [sys.executable, "-m", f"{role}_worker", "--model", self._models[role], "--listen", address,
                   "--device", device, "--dtype", dtype, "--threads", str(self._threads),
                   *(["--shared-listen", self._shared_address] if self._shared else []),
                   *self._telemetry_args, *self._sharing_args(role), *self._worker_args[role]]
        # fmt: on
        self._add(
            f"{role} worker",
            command,
            address,
            lambda: is_serving(address, _CHECK_TIMEOUT_S),
            {"OMP_NUM_THREADS": str(self._threads)},
        )

    def _sharing_args(self, role: str) -> list[str]:
        """Two models on one GPU know of each other: caches of as many tokens, steps in turns."""
        devices = {"cuda:0" if device == "cuda" else device for device in self._devices.values()}
        if self._shared or len(devices) > 1 or "cpu" in devices:
            return []
        other = self._models["llm" if role == "slm" else "slm"]
        return ["--beside", other, "--share-device", str(self.folder / "device")]

    def _new_router(self, name: str, port: int, args: Sequence[str] = ()) -> Part:
        address = f"{_LOCALHOST}:{port}"
        slm, llm = self.worker_addresses
        # fmt: off
        command = [sys.executable, "-m", self._router_module, "--slm", slm, "--llm", llm,
                   "--redis", self.redis_url, "--listen", address, *self._telemetry_args, *self._router_args, *args]
        # fmt: on
        env = {"OMP_NUM_THREADS": "1", "RSTITCH_HEADS": os.environ.get("RSTITCH_HEADS", bundled_heads())}
        return self._add(name, command, address, lambda: is_serving(address, _CHECK_TIMEOUT_S), env)

    def _add(
        self, name: str, command: Sequence[str], address: str, is_ready: Callable[[], bool], env: Mapping[str, str]
    ) -> Part:
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        own = {
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONUNBUFFERED": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "TMPDIR": str(self.folder),  # what a part leaves there (torch does) goes with the folder
        }
        process = ChildProcess(
            name,
            command,
            env={**own, **env, **self._env},
            log_path=self.folder / f"{name.replace(' ', '-')}.log",
            guard=self._guard,
        )
        part = Part(process, address, is_ready, self._timeout_s)
        self.parts.append(part)
        return part
