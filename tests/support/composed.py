"""What `docker compose -f compose.yaml -f compose.tls.yaml up` starts, without containers, on this machine's CPU."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rstitch.client import Client
from rstitch.credentials import Credentials
from rstitch.local.processes import ChildProcess, free_port
from rstitch.local.reaper import Reaper
from tests.support.certificates import Authority
from tests.support.compose import ROOT, compose
from tests.support.redis_process import RedisProcess
from tests.support.served import Pair
from tests.support.tls_proxy import TlsProxy

NAMES = ("slm-worker", "llm-worker", "router")
# A container has a GPU and more time: nothing is built here at the start.
_HERE = {"RSTITCH_DEVICE": "cpu", "RSTITCH_THREADS": "1", "RSTITCH_MEASURE_MS": "100"}
_HERE |= {"RSTITCH_ATTENTION": "in-place", "RSTITCH_MATMUL": "torch", "RSTITCH_COMPILE": "off"}


@dataclass(frozen=True)
class Composed:
    """Processes by the names of their services: what each is told, and where it listens; Redis is behind `proxy`."""

    pair: Pair
    proxy: TlsProxy
    services: Mapping[str, Any]
    environments: Mapping[str, Mapping[str, str]]
    addresses: Mapping[str, str]
    metrics: Mapping[str, str]  # where each is scraped
    credentials: Credentials  # of a client with a certificate and a key

    @property
    def router(self) -> str:
        return self.addresses["router"]

    @property
    def workers(self) -> tuple[str, str]:
        return self.addresses["slm-worker"], self.addresses["llm-worker"]

    def health(self, name: str) -> subprocess.CompletedProcess[str]:
        """Runs the health check of a container, as its own environment has it."""
        kind, rstitch, *arguments = self.services[name]["healthcheck"]["test"]
        assert (kind, rstitch) == ("CMD", "rstitch")
        port = arguments[-1].rpartition(":")[2]
        assert arguments[-1] == f"127.0.0.1:{port}"
        assert self.services[name]["environment"]["RSTITCH_LISTEN"].endswith(port)
        command = [sys.executable, "-m", "rstitch.cli.app", *arguments[:-1], self.addresses[name]]
        env = {"PATH": os.environ["PATH"], **self.environments[name]}
        return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)


@contextmanager
def composed(folder: Path, ours: Authority, pair: Pair) -> Iterator[Composed]:
    """Starts it all, and ends it with what it left in `folder`."""
    (folder / "redis_password").write_text("of-redis\n")
    acl = (ROOT / "deploy/redis-users.acl").read_text()
    (folder / "users.acl").write_text(acl.replace("PASSWORD_SHA256", hashlib.sha256(b"of-redis").hexdigest()))
    models = {"SLM_MODEL": str(pair.slm_folder), "LLM_MODEL": str(pair.llm_folder), "DTYPE": pair.dtype}
    small = {"SLM_NUM_PAGES": "4096", "LLM_NUM_PAGES": "4096", "OTLP_ENDPOINT": ""}
    services = compose("compose.yaml", "compose.tls.yaml", variables=models | small)["services"]
    with ExitStack() as held:
        redis = RedisProcess(folder, "--aclfile", str(folder / "users.acl"))
        redis.start()
        held.callback(redis.stop)
        proxy = held.enter_context(TlsProxy(f"127.0.0.1:{redis.port}", ours))
        reaper = Reaper()
        held.callback(reaper.close)
        addresses = {name: f"127.0.0.1:{free_port()}" for name in NAMES}
        metrics = {name: f"localhost:{free_port()}" for name in NAMES}
        environments = {}
        for name in NAMES:
            told = {**services[name]["environment"], **_HERE, "RSTITCH_LISTEN": addresses[name]}
            host = told["RSTITCH_METRICS_LISTEN"].rpartition(":")[0]
            told["RSTITCH_METRICS_LISTEN"] = metrics[name].replace("localhost", host)
            told = _with_files(told, services[name]["secrets"], ours, folder)
            if name == "router":
                told["RSTITCH_REDIS"] = told["RSTITCH_REDIS"].replace("@redis:6379", f"@localhost:{proxy.port}")
                for role in ("SLM", "LLM"):
                    assert told[f"RSTITCH_{role}"].startswith(f"dns:///{role.lower()}-worker:")
                    told[f"RSTITCH_{role}"] = addresses[f"{role.lower()}-worker"]
            environments[name] = {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder), **told}
            if name == "router":
                key = _new_key(environments[name])
            module = (services[name].get("command") or ["python", "-m", "router_svc"])[-1]
            process = ChildProcess(name, [sys.executable, "-m", module], environments[name], folder / name, reaper)
            process.start()
            held.callback(process.wait_or_kill, 0)
        credentials = ours.asking_as("client", api_key=key)
        with Client(addresses["router"], credentials=credentials) as client:
            client.wait_ready(timeout_s=100)
        yield Composed(pair, proxy, services, environments, addresses, metrics, credentials)


def _new_key(environment: Mapping[str, str]) -> str:
    """Makes a key as an operator does in the router's container."""
    scopes = "generate,trajectories,profiles,admin"
    command = [sys.executable, "-m", "rstitch.cli.app", "keys", "add", "--tenant", "me", "--scope", scopes]
    env = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def _with_files(told: Mapping[str, str], secrets: Sequence[Any], ours: Authority, folder: Path) -> dict[str, str]:
    """Puts this machine's files where a container's are."""
    files = {"/run/secrets/redis_password": str(folder / "redis_password")}
    for each in secrets:
        if isinstance(each, dict):
            part, _, what = each["source"].partition("_")
            files[f"/run/secrets/{each['target']}"] = ours.file(f"{part}.{'key' if what == 'key' else 'pem'}")
    own = {"/heads": str(ROOT / "models/heads"), "/cache": str(folder)}
    found = {variable: (files | own).get(value, value) for variable, value in told.items()}
    assert not any("/run/secrets" in value for value in found.values()), "each is one that the service has"
    return found
