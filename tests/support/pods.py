"""What a cluster would run of rendered manifests, as processes of this machine, without containers.

A pod gets an address of its own in 127.0.0.0/8, its variables as a kubelet makes them, and its probes are asked as a
kubelet asks them. The names of Services are answered by a name server, as far as gRPC asks for them. Who may talk to
whom is not held up here.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rstitch.local.processes import ChildProcess
from rstitch.local.readiness import health_of
from rstitch.local.reaper import Reaper
from tests.support.kustomized import ROOT, Object, Workload, workloads
from tests.support.name_server import NameServer
from tests.support.redis_process import redis_binary

# A cluster has more time: nothing is built or measured at length here at the start.
_HERE = {"RSTITCH_MEASURE_MS": "100", "RSTITCH_ATTENTION": "in-place", "RSTITCH_MATMUL": "torch"}
_HERE |= {"RSTITCH_COMPILE": "off", "RSTITCH_NUM_PAGES": "4096"}
_PROGRAMS = {"router": "router_svc", "gateway": "gateway"}  # which their images start


@dataclass
class Pod:
    """One process of a workload."""

    name: str
    ip: str
    part: Workload
    process: ChildProcess

    def probe(self, kind: str) -> bool:
        """Asks a probe once, as a kubelet does; `kind` is startup, readiness or liveness."""
        told = self.part.container[f"{kind}Probe"]
        if "exec" in told:
            return self._passes(told["exec"]["command"])
        if "grpc" in told:
            state = health_of(
                f"{self.ip}:{told['grpc']['port']}", told["grpc"].get("service", ""), told["timeoutSeconds"]
            )
            return state == "SERVING"
        asked = told["httpGet"]
        port = self.part.ports[asked["port"]]
        headers = {each["name"]: each["value"] for each in asked["httpHeaders"]}
        request = urllib.request.Request(f"http://{self.ip}:{port}{asked['path']}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=told["timeoutSeconds"]) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def _passes(self, command: list[str]) -> bool:
        """Runs a probe of its container, where it is."""
        here = [word.replace("127.0.0.1", self.ip).replace("redis-cli", f"redis-cli -h {self.ip}") for word in command]
        if here[0] == "rstitch":
            here[:1] = [sys.executable, "-m", "rstitch.cli.app"]
        return subprocess.run(here, env=dict(self.process.env), capture_output=True, check=False).returncode == 0

    def wait_ready(self, patience_s: float = 100) -> None:
        deadline = time.monotonic() + patience_s
        while not (self.probe("startup") and self.probe("readiness")):
            told = f"{self.name} is not ready: {self.process.log_path.read_text()}"
            assert self.process.exit_code is None, told
            assert time.monotonic() < deadline, told
            time.sleep(0.1)

    def end(self) -> int | None:
        """Ends it as a kubelet does, within its grace period. Returns its exit code."""
        self.process.terminate()
        self.process.wait_or_kill(self.part.pod["terminationGracePeriodSeconds"])
        return self.process.exit_code


class Cluster:
    """The pods of rendered manifests; `routers` answers for the name of the routers' Service."""

    def __init__(self, objects: tuple[Object, ...], folder: Path, held: ExitStack) -> None:
        self.parts = workloads(objects)
        self.pods: dict[str, Pod] = {}
        self._folder = folder
        self._held = held
        self._reaper = Reaper()
        held.callback(self._reaper.close)
        # A net of its own, in which each pod has the ports that its manifest names.
        draw = random.SystemRandom().randrange
        self._net = f"127.{draw(1, 255)}.{draw(1, 255)}"
        self._routers = held.enter_context(NameServer([]))

    def start(self, workload: str, number: int = 0) -> Pod:
        """Starts one more pod, which a name server knows as soon as it is ready."""
        ip, name = f"{self._net}.{len(self.pods) + 2}", f"{workload}-{number}"
        part = self.parts[workload]
        environment = self._environment(part, name, ip)
        process = ChildProcess(name, self._command(part, ip), environment, self._folder / f"{name}.log", self._reaper)
        process.start()
        self._held.callback(process.wait_or_kill, 0)
        pod = self.pods[name] = Pod(name, ip, part, process)
        return pod

    def ready(self, *names: str) -> None:
        for name in names:
            self.pods[name].wait_ready()
        self._routers.addresses = [pod.ip for name, pod in self.pods.items() if name.startswith("router")]

    def _command(self, part: Workload, ip: str) -> list[str]:
        command = part.container.get("command", ["python", "-m", _PROGRAMS.get(part.name, "")])
        if part.name == "redis":
            return [redis_binary(), *command[1:], "--bind", ip, "--dir", str(self._folder)]
        return [sys.executable, *command[1:]]

    def _environment(self, part: Workload, name: str, ip: str) -> dict[str, str]:
        told = part.environment(name, ip) | (_HERE if part.name.endswith("-worker") else {})
        for variable, value in told.items():
            value = value.replace("0.0.0.0:", f"{ip}:").replace("/cache", str(self._folder))
            value = value.replace("dns:///router:50050", self._routers.target("router", 50050))
            if "redis-0" in self.pods:
                value = value.replace("//redis:", f"//{self.pods['redis-0'].ip}:")
            told[variable] = value
        # redis-cli is beside redis-server.
        path = f"{Path(redis_binary()).parent}:{os.environ['PATH']}"
        return {"PATH": path, "PYTHONPATH": str(ROOT), "TMPDIR": str(self._folder), **told}
