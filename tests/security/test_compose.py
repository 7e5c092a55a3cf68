"""The containers: closed, and with compose.tls.yaml secured; `test_mtls_everywhere` starts what they start."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from redis import Redis

from tests.support.compose import ROOT, compose
from tests.support.redis_process import RedisProcess

OURS = ("redis", "slm-worker", "llm-worker", "router", "jaeger", "prometheus", "grafana")
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
    for name, port in (("jaeger", 16686), ("prometheus", 9090), ("grafana", 3000)):
        assert services[name]["ports"] == [f"127.0.0.1:{port}:{port}"], "it asks nobody who they are"
    shown = {(each["source"], each["target"]) for each in services["prometheus"]["secrets"]}
    assert shown == {("ca", "ca"), ("prometheus_cert", "cert"), ("prometheus_key", "key")}
    assert "--config.file=/etc/prometheus/prometheus.tls.yml" in services["prometheus"]["command"]
    for name, part in PARTS.items():
        secrets = {(each["source"], each["target"]) for each in services[name]["secrets"] if isinstance(each, dict)}
        assert secrets == {("ca", "ca"), (f"{part}_cert", "cert"), (f"{part}_key", "key")}
        assert services[name]["mem_limit"]
    assert all(set(secret) == {"file"} for secret in found["secrets"].values())
    router = services["router"]["environment"]
    assert (router["RSTITCH_KEYS"], router["RSTITCH_INSECURE"]) == ("redis", "false")
    script = services["redis"]["command"][-1]
    assert "--port 0 --tls-port 6379 --tls-auth-clients yes" in script
    # No secret stands where `docker inspect` shows it.
    for service in services.values():
        for variable, value in service.get("environment", {}).items():
            if any(word in variable for word in ("PASSWORD", "_KEY_", "SECRET")) or variable.endswith("_KEY"):
                assert value.startswith("/run/secrets/"), variable


@pytest.mark.parametrize("names", [("compose.yaml",), ("compose.yaml", "compose.tls.yaml")])
def test_prometheus_and_grafana_are_asked_for_and_read_what_is_there(names: tuple[str, ...]) -> None:
    services = compose(*names)["services"]
    for name in ("prometheus", "grafana"):
        assert services[name]["profiles"] == ["obs"]
        assert ":latest" not in services[name]["image"]
        for mount in services[name]["volumes"]:
            source, _, how = mount.partition(":")
            assert how.endswith(":ro") == source.startswith("./"), "what is ours stays as it is"
            assert not source.startswith("./") or (ROOT / source).is_dir()
    for name in ("slm-worker", "llm-worker", "router"):
        assert services[name]["environment"]["RSTITCH_METRICS_LISTEN"] == "0.0.0.0:9464"
        assert not any("9464" in port for port in services[name].get("ports", ())), "only Prometheus reaches it"
    # Nobody logs in, so that nobody has to choose a password.
    grafana = services["grafana"]["environment"]
    assert grafana["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == grafana["GF_AUTH_ANONYMOUS_ENABLED"] == "true"


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
