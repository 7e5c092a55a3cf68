"""The containers: closed, and with compose.tls.yaml secured; `test_mtls_everywhere` starts what they start."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from redis import Redis

from rstitch import authority
from tests.support.compose import ROOT, compose
from tests.support.redis_process import RedisProcess

OURS = ("redis", "slm-worker", "llm-worker", "router", "gateway", "jaeger", "prometheus", "grafana")
PARTS = {"slm-worker": "slm", "llm-worker": "llm", "router": "router", "redis": "redis", "gateway": "gateway"}


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


WORKERS = ("slm-worker", "llm-worker")


@pytest.mark.parametrize("more", [(), ("compose.tls.yaml",)])
def test_on_one_gpu_each_worker_knows_the_other(more: tuple[str, ...]) -> None:
    models = {"SLM_MODEL": "an/slm", "LLM_MODEL": "an/llm"}
    found = compose("compose.yaml", "compose.one-gpu.yaml", *more, variables=models | {"SLM_GPU": "3", "LLM_GPU": "4"})
    slm, llm = (found["services"][name] for name in WORKERS)
    assert slm["environment"]["RSTITCH_BESIDE"] == llm["environment"]["RSTITCH_MODEL"] == "an/llm"
    assert llm["environment"]["RSTITCH_BESIDE"] == slm["environment"]["RSTITCH_MODEL"] == "an/slm"
    for worker in (slm, llm):
        (gpu,) = worker["deploy"]["resources"]["reservations"]["devices"]
        assert gpu["device_ids"] == ["3"]
        # Both see one file, on the one volume that both may write to.
        assert worker["environment"]["RSTITCH_SHARE_DEVICE"].startswith("/cache/")
        assert "hub-cache:/cache" in worker["volumes"]


@pytest.mark.parametrize("more", [("compose.cpu.yaml",), ("compose.cpu.yaml", "compose.tls.yaml")])
def test_workers_and_routers_are_found_however_many_there_are(more: tuple[str, ...]) -> None:
    """By `--scale`: nothing of them may be one container's alone, and certificates are for a name that all have."""
    services = compose("compose.yaml", *more)["services"]
    told = services["router"]["environment"]
    for role, port in (("slm", 50051), ("llm", 50052)):
        worker = services[f"{role}-worker"]
        assert told[f"RSTITCH_{role.upper()}"] == f"dns:///{role}-worker:{port}"
        assert worker["environment"]["RSTITCH_LISTEN"] == f"0.0.0.0:{port}"
        assert not {"ports", "container_name", "hostname"} & set(worker)
    assert services["gateway"]["environment"]["RSTITCH_ROUTER"] == "dns:///router:50050"
    if len(more) > 1:
        assert all(told["RSTITCH_WORKER_TLS_NAME"] in authority.PARTS[role] for role in ("slm", "llm"))


def test_without_a_gpu_the_image_is_another_with_torchs_cpu_build() -> None:
    usual, cpu = (compose("compose.yaml", *more)["services"] for more in ((), ("compose.cpu.yaml",)))
    for name in WORKERS:
        assert cpu[name]["image"] != usual[name]["image"]
        assert cpu[name]["build"]["args"]["TORCH_INDEX"].endswith("/cpu")
        assert cpu[name]["build"]["args"]["TORCH"] == usual[name]["build"]["args"]["TORCH"]
        assert cpu[name]["deploy"] is None
    assert cpu["router"]["image"] == usual["router"]["image"]
    told = (ROOT / "deploy" / "Dockerfile").read_text()
    assert {"TORCH", "TORCH_INDEX"} <= set(re.findall(r"^ARG (\w+)=", told, re.MULTILINE))


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
