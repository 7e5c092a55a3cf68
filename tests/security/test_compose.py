"""The containers: closed, and with compose.tls.yaml secured. What they start is started here as processes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from rstitch.client import Client, Threshold, Unavailable
from rstitch.credentials import Credentials
from rstitch.local.processes import ChildProcess, free_port
from rstitch.local.reaper import Reaper
from tests.support.certificates import Authority
from tests.support.compose import ROOT, compose
from tests.support.redis_process import RedisProcess
from tests.support.tls_proxy import TlsProxy

OURS = ("redis", "slm-worker", "llm-worker", "router", "jaeger")
# Caches of some megabytes.
_SMALL = {"SLM_NUM_PAGES": "4096", "LLM_NUM_PAGES": "4096"}
PARTS = {"slm-worker": "slm", "llm-worker": "llm", "router": "router", "redis": "redis"}


@pytest.mark.parametrize("names", [("compose.yaml",), ("compose.yaml", "compose.tls.yaml")])
def test_a_container_may_do_what_it_must(names: tuple[str, ...]) -> None:
    found = compose(*names)
    assert set(found["services"]) == set(OURS)
    for name, service in found["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["pids_limit"] > 0, name
        assert any(mount.startswith("/tmp") for mount in service["tmpfs"]), name
        assert not {"privileged", "network_mode", "pid", "cap_add"} & set(service), name
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), name
    # What a worker keeps is on a volume, since nothing else may be written to.
    for name in ("slm-worker", "llm-worker", "router"):
        service = found["services"][name]
        assert service["environment"]["HOME"] == "/cache"
        assert "hub-cache:/cache" in service["volumes"]


def test_with_tls_nothing_is_in_clear_and_nobody_else_reaches_workers_and_redis() -> None:
    found = compose("compose.yaml", "compose.cpu.yaml", "compose.tls.yaml", variables={"BIND": "0.0.0.0"})
    services = found["services"]
    assert found["networks"]["inside"] == {"internal": True}
    for name in ("slm-worker", "llm-worker", "redis"):
        assert services[name]["networks"] == ["inside"]
        assert "ports" not in services[name]
    assert services["jaeger"]["ports"] == ["127.0.0.1:16686:16686"], "it asks nobody who they are"
    for name, part in PARTS.items():
        secrets = {(each["source"], each["target"]) for each in services[name]["secrets"] if isinstance(each, dict)}
        assert secrets == {("ca", "ca"), (f"{part}_cert", "cert"), (f"{part}_key", "key")}
        assert services[name]["mem_limit"]
    assert all(set(secret) == {"file"} for secret in found["secrets"].values())
    script = services["redis"]["command"][-1]
    assert "--port 0 --tls-port 6379 --tls-auth-clients yes" in script
    # No secret stands where `docker inspect` shows it.
    for service in services.values():
        for variable, value in service.get("environment", {}).items():
            if any(word in variable for word in ("PASSWORD", "KEY", "SECRET")):
                assert value.startswith("/run/secrets/"), variable


def test_the_script_of_redis_makes_the_users_that_redis_reads(tmp_path: Path) -> None:
    """The password itself is in no file that it leaves."""
    script: str = compose("compose.yaml", "compose.tls.yaml")["services"]["redis"]["command"][-1]
    (tmp_path / "redis_password").write_text("of-redis\n")
    (tmp_path / "redis-server").write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$0.args"\n')
    (tmp_path / "redis-server").chmod(0o755)
    script = script.replace("/run/secrets/", f"{tmp_path}/").replace("/tmp/users.acl", f"{tmp_path}/made.acl")
    script = script.replace("/etc/redis/users.acl", str(ROOT / "deploy/redis-users.acl"))
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(["sh", "-ec", script], check=True, env={"PATH": path})
    arguments = (tmp_path / "redis-server.args").read_text().split("\n")
    assert arguments[arguments.index("--maxmemory") + 1] == "3gb"
    assert arguments[arguments.index("--tls-protocols") + 1] == "TLSv1.2 TLSv1.3"
    made = (tmp_path / "made.acl").read_text()
    assert "of-redis" not in made
    process = RedisProcess(tmp_path, "--aclfile", str(tmp_path / "made.acl"))
    process.start()
    try:
        with Redis(port=process.port, username="rstitch", password="of-redis") as client:
            assert client.ping()
    finally:
        process.stop()


@dataclass
class Started:
    """The processes of the containers, by service: what each is told, and where it listens."""

    environments: dict[str, dict[str, str]]
    services: dict[str, Any]
    addresses: dict[str, str]

    def health(self, name: str) -> subprocess.CompletedProcess[str]:
        """Runs the health check of a container."""
        kind, rstitch, *arguments = self.services[name]["healthcheck"]["test"]
        assert (kind, rstitch) == ("CMD", "rstitch")
        port = arguments[-1].rpartition(":")[2]
        assert arguments[-1] == f"127.0.0.1:{port}"
        assert self.services[name]["environment"]["RSTITCH_LISTEN"].endswith(port)
        command = [sys.executable, "-m", "rstitch.cli.app", *arguments[:-1], self.addresses[name]]
        env = self.environments[name]
        return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory, ours: Authority) -> Iterator[Started]:
    """`docker compose -f compose.yaml -f compose.cpu.yaml -f compose.tls.yaml up`, without containers."""
    folder = tmp_path_factory.mktemp("compose")
    (folder / "redis_password").write_text("of-redis\n")
    acl = (ROOT / "deploy/redis-users.acl").read_text()
    (folder / "users.acl").write_text(acl.replace("PASSWORD_SHA256", hashlib.sha256(b"of-redis").hexdigest()))
    redis = RedisProcess(folder, "--aclfile", str(folder / "users.acl"))
    redis.start()
    found = compose("compose.yaml", "compose.cpu.yaml", "compose.tls.yaml", variables={"OTLP_ENDPOINT": "", **_SMALL})
    services = found["services"]
    with ExitStack() as held:
        held.callback(redis.stop)
        proxy = held.enter_context(TlsProxy(f"127.0.0.1:{redis.port}", ours))
        reaper = Reaper()
        held.callback(reaper.close)
        addresses = {name: f"127.0.0.1:{free_port()}" for name in ("slm-worker", "llm-worker", "router")}
        addresses["redis"] = f"localhost:{proxy.port}"
        environments = {}
        for name in ("slm-worker", "llm-worker", "router"):
            told = _here(services[name]["environment"], services[name]["secrets"], ours, folder, addresses)
            told |= {"RSTITCH_LISTEN": addresses[name], "RSTITCH_MEASURE_MS": "100"}
            environments[name] = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), **told}
            module = (services[name].get("command") or ["python", "-m", "router_svc"])[-1]
            process = ChildProcess(name, [sys.executable, "-m", module], environments[name], folder / name, reaper)
            process.start()
            held.callback(process.wait_or_kill, 0)
        made = Started(environments, services, addresses)
        with Client(addresses["router"], credentials=ours.asking_as("client")) as client:
            client.wait_ready(timeout_s=100)
        yield made


def _here(
    environment: dict[str, str], secrets: list[Any], ours: Authority, folder: Path, addresses: dict[str, str]
) -> dict[str, str]:
    """What a container is told, with the files and the addresses of this machine."""
    files = {"/run/secrets/redis_password": str(folder / "redis_password")}
    for each in secrets:
        if isinstance(each, dict):
            part, _, what = each["source"].partition("_")
            files[f"/run/secrets/{each['target']}"] = ours.file(f"{part}.{'key' if what == 'key' else 'pem'}")
    told = {}
    for variable, value in environment.items():
        value = files.get(value, value)
        for name, address in addresses.items():
            value = value.replace(f"@{name}:6379", f"@{address}") if name == "redis" else value
            value = address if value.rpartition(":")[0] == name else value
        value = str(ROOT / value) if value.startswith("models/") else value
        told[variable] = value.replace("/cache", str(folder)).replace("/heads", str(ROOT / "models/heads"))
    return told


def test_what_compose_starts_answers_those_with_a_certificate(started: Started, ours: Authority) -> None:
    address = started.addresses["router"]
    with Client(address, credentials=ours.asking_as("client")) as client:
        assert client.answer("1 2", policy=Threshold(0.02), max_new_tokens=8).tokens
    for credentials in (Credentials(), Credentials(tls_ca=ours.ca)):
        with Client(address, credentials=credentials, reconnect_s=0) as client, pytest.raises(Unavailable):
            client.status()


def test_health_checks_of_the_containers_pass(started: Started) -> None:
    names = ("slm-worker", "llm-worker", "router")
    with ThreadPoolExecutor() as pool:
        for name, done in zip(names, pool.map(started.health, names), strict=True):
            assert (done.returncode, done.stdout.strip()) == (0, "SERVING"), (name, done.stderr)
