"""What a cluster is sent: objects that it takes, variables that services read, and walls where they are meant to be.

No cluster is asked: the manifests are rendered as kubectl does, and held against Kubernetes' own schemas, our settings,
and what compose says of the same services.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
from dataclasses import fields
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate import utils as schemas
from pydantic_settings import BaseSettings

from gateway.settings import GatewaySettings
from model_worker.settings import WorkerSettings
from router_svc.settings import RouterSettings
from rstitch.credentials import Credentials, variable_of
from rstitch.service.exposure import check_exposure
from rstitch.service.server import LIVE
from storage.redis_address import RedisAddress
from tests.support.certificates import Authority
from tests.support.compose import compose
from tests.support.kustomized import (
    KUBERNETES,
    NAME,
    ROOT,
    WORKLOADS,
    Object,
    Workload,
    kustomizations,
    kustomized,
    named,
    needs_kubectl,
    of_kind,
    reached,
    rendered,
    selects,
    workloads,
)

# The first release that has gRPC probes for good, and the newest one whose schemas are here.
OLDEST, NEWEST = "1.27", kubernetes_validate.latest_version()
PLAIN = [("base",), ("cpu",), ("gpu",), ("tensor-parallel",)]
OBSERVED = ("gpu", "keda", "prometheus-operator")
SECURE = ("production",)
OWN_REDIS = [("cpu", "own-redis"), ("gpu", "own-redis", "tls")]
ALL = [*PLAIN, OBSERVED, SECURE, *OWN_REDIS]
# What an overlay is made of beside its base.
WITHIN = {"production": ("gpu", "prometheus-operator", "keda", "tls")}
# Kinds of others, whose schemas come with their operators.
CUSTOM = {"keda.sh/v1alpha1", "monitoring.coreos.com/v1"}
SETTINGS: dict[str, type[BaseSettings]] = {
    "gateway": GatewaySettings,
    "router": RouterSettings,
    "slm-worker": WorkerSettings,
    "llm-worker": WorkerSettings,
}
# Read by `rstitch health`, which is a probe.
OF_PROBES = {variable_of(field.name) for field in fields(Credentials)}
# The port by which each is called, and its name.
PORTS = {
    "gateway": ("http", 8000),
    "router": ("grpc", 50050),
    "slm-worker": ("grpc", 50051),
    "llm-worker": ("grpc", 50051),
}


def has(component: str, way: tuple[str, ...]) -> bool:
    return component in way or any(component in WITHIN.get(each, ()) for each in way)


ways = pytest.mark.parametrize("way", ALL, ids="+".join)


def test_every_file_is_there_and_every_file_is_named() -> None:
    """Without kubectl, too: what a kustomization names exists, and nothing lies beside it that nobody names."""
    for folder, told in kustomizations():
        generated = [name for each in told.get("configMapGenerator", []) for name in each.get("files", [])]
        patched = [each["path"] for each in told.get("patches", []) if "path" in each]
        listed = [*told.get("resources", []), *told.get("components", []), *generated, *patched]
        assert all((folder / name).exists() for name in listed), folder
        files = {name for name in listed if (folder / name).is_file()}
        assert {name for name in files if "/" not in name} == {
            path.name for path in folder.iterdir() if path.is_file() and path.name != "kustomization.yaml"
        }
        for name in files:
            if name.endswith(".yaml"):
                assert all(yaml.safe_load_all((folder / name).read_text())), name


@needs_kubectl
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_a_cluster_takes_every_object(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # It would read all of a release's schemas again for each object.
    monkeypatch.setattr(schemas, "schema_contents", functools.cache(schemas.schema_contents))
    distinct = {json.dumps(each): each for way in ALL for each in rendered(*way) if each["apiVersion"] not in CUSTOM}
    for each in distinct.values():
        kubernetes_validate.validate(each, version, strict=True)
    assert len(distinct) > 50


@needs_kubectl
def test_kubectl_reads_every_workload(tmp_path: Path) -> None:
    """With its own types, which know more than schemas: what a quantity is."""
    distinct = {json.dumps(part.object): part.object for way in ALL for part in workloads(rendered(*way)).values()}
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(distinct.values()))
    command = ["kubectl", "set", "image", "--local", "-f", str(tmp_path / "all.yaml"), "*=any", "-o", "name"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(distinct)


@needs_kubectl
@ways
def test_a_fleet_is_whole_and_in_one_namespace(way: tuple[str, ...]) -> None:
    objects = rendered(*way)
    custom = {"keda.sh/v1alpha1"} if has("keda", way) else set()
    custom |= {"monitoring.coreos.com/v1"} if has("prometheus-operator", way) else set()
    assert {each["apiVersion"] for each in objects} & CUSTOM == custom
    keys = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(keys) == len(set(keys))
    assert {each["metadata"].get("namespace") for each in objects if each["kind"] != "Namespace"} == {"rstitch"}
    assert set(workloads(objects)) == set(WORKLOADS) - ({"redis"} if has("own-redis", way) else set())


@needs_kubectl
@ways
def test_variables_are_read_by_whom_they_are_given(way: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them by somebody, and what a service reads of them is good: its settings take it."""
    parts = workloads(rendered(*way))
    common = named(rendered(*way), "ConfigMap", _config_map(parts["router"], "common-settings"))["data"]
    read = {name: {f"RSTITCH_{field.upper()}" for field in each.model_fields} for name, each in SETTINGS.items()}
    assert {name for name in common if name.startswith("RSTITCH_")} <= set().union(*read.values()) | OF_PROBES
    for name, settings in SETTINGS.items():
        environment = parts[name].environment()
        given = {variable for variable in environment if variable.startswith("RSTITCH_")}
        assert given - set(common) <= read[name], name
        with monkeypatch.context() as patch:
            for variable in given:
                patch.setenv(variable, environment[variable])
            made = settings()
        assert {name: getattr(made, name) for name in ("insecure", "log_level")} == {
            "insecure": not has("tls", way),
            "log_level": "info",
        }


@needs_kubectl
def test_with_certificates_nothing_is_open_and_nobody_is_told_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is given is as good as the files in it: each service takes a real certificate of its own."""
    ours = Authority.make(tmp_path / "certs")
    (tmp_path / "password").write_text("of-redis")
    parts = workloads(rendered(*SECURE))
    for name, settings in SETTINGS.items():
        own = name.removesuffix("-worker")
        files = {"tls/ca.crt": ours.ca, "tls/tls.crt": ours.file(f"{own}.pem"), "tls/tls.key": ours.file(f"{own}.key")}
        files["redis/password"] = str(tmp_path / "password")
        for variable, value in parts[name].environment().items():
            if variable.startswith("RSTITCH_"):
                monkeypatch.setenv(variable, files.get(value.removeprefix("/run/secrets/"), value))
        made = settings()
        match made:
            case GatewaySettings():
                made.check()
                assert made.credentials().secure
            case RouterSettings() | WorkerSettings():
                tls = made.server_tls()
                assert tls is not None
                keys = made.keys != "off" if isinstance(made, RouterSettings) else False
                client_ca = bool(made.tls_client_ca) and isinstance(made, WorkerSettings)
                check_exposure(
                    made.listen, has_keys=keys, has_tls=True, has_client_ca=client_ca, insecure=made.insecure
                )
                address = RedisAddress.of(made.redis, made)
                address.check()
                assert address.is_secure
        if isinstance(made, RouterSettings):
            assert made.worker_credentials().files().read().ca


def _config_map(part: Workload, name: str) -> str:
    (found,) = (
        each["configMapRef"]["name"]
        for each in part.container["envFrom"]
        if each["configMapRef"]["name"].startswith(name)
    )
    return str(found)


@needs_kubectl
def test_a_worker_tells_routers_where_its_pod_is() -> None:
    parts = workloads(rendered("gpu"))
    for name in ("slm-worker", "llm-worker"):
        told = parts[name].environment(pod_name=f"{name}-3", pod_ip="10.9.8.7")
        assert (told["RSTITCH_WORKER_ID"], told["RSTITCH_ADVERTISE"]) == (f"{name}-3", "10.9.8.7:50051")
        assert told["RSTITCH_FLEET"] == parts["router"].environment()["RSTITCH_FLEET"]
        assert told["RSTITCH_REDIS"] == parts["router"].environment()["RSTITCH_REDIS"]
    # Found in Redis.
    assert not {"RSTITCH_SLM", "RSTITCH_LLM"} & set(parts["router"].environment())


@needs_kubectl
@ways
def test_ports_agree(way: tuple[str, ...]) -> None:
    objects = rendered(*way)
    parts = workloads(objects)
    for name, (port_name, port) in PORTS.items():
        part, environment = parts[name], parts[name].environment()
        listen = environment["RSTITCH_HTTP_LISTEN" if name == "gateway" else "RSTITCH_LISTEN"]
        assert listen == f"0.0.0.0:{port}"
        assert part.ports[port_name] == port
        assert part.ports.get("metrics", 9464) == 9464
        if "metrics" in part.ports:
            assert environment["RSTITCH_METRICS_LISTEN"] == "0.0.0.0:9464"
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            text = json.dumps(part.container[probe])
            asked = {
                int(each) for each in re.findall(r"127\.0\.0\.1:(\d+)|\"port\": (\d+)", text) for each in each if each
            }
            assert asked <= {port}, (name, probe)
            assert asked or part.container[probe]["httpGet"]["port"] == port_name
    assert parts["gateway"].environment()["RSTITCH_ROUTER"] == "dns:///router:50050"
    for service in of_kind(objects, "Service"):
        (part,) = (
            each for each in parts.values() if selects({"matchLabels": service["spec"]["selector"]}, each.labels)
        )
        assert part.name == service["metadata"]["name"]
        for each in service["spec"]["ports"]:
            assert part.ports[each["targetPort"]] == each["port"]
    for each in of_kind(objects, "PodMonitor"):
        (part,) = (part for part in parts.values() if selects(each["spec"]["selector"], part.labels))
        (endpoint,) = each["spec"]["podMetricsEndpoints"]
        assert endpoint["port"] in part.ports


@needs_kubectl
@ways
def test_who_is_ready_is_asked_and_who_lives_is_asked_otherwise(way: tuple[str, ...]) -> None:
    """A router that waits for its workers must not be killed for it."""
    for name, part in workloads(rendered(*way)).items():
        probes = {kind: part.container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")}
        assert all(len({"grpc", "exec", "httpGet", "tcpSocket"} & set(each)) == 1 for each in probes.values())
        if name in ("router", "slm-worker", "llm-worker"):
            assert json.dumps(probes["liveness"]).count(f'"{LIVE}"') == 1
            assert f'"{LIVE}"' not in json.dumps(probes["readiness"])
            assert ("exec" in probes["liveness"]) == (has("tls", way))
        if name.endswith("-worker"):
            # As long as a download may take.
            assert f'"{LIVE}"' not in json.dumps(probes["startup"])
            assert probes["startup"]["periodSeconds"] * probes["startup"]["failureThreshold"] >= 3600


@needs_kubectl
@ways
def test_selectors_mean_the_pods_of_their_name(way: tuple[str, ...]) -> None:
    objects = rendered(*way)
    parts = workloads(objects)
    budgets = of_kind(objects, "PodDisruptionBudget")
    assert {each["metadata"]["name"] for each in budgets} == set(parts)
    for budget in budgets:
        assert budget["spec"]["maxUnavailable"] == 1
        meant = [part.name for part in parts.values() if selects(budget["spec"]["selector"], part.labels)]
        assert meant == [budget["metadata"]["name"]]
    for name, part in parts.items():
        assert selects(part.object["spec"]["selector"], part.labels)
        assert part.object["spec"]["selector"]["matchLabels"] == {NAME: f"rstitch-{name}"}
        for spread in part.pod.get("topologySpreadConstraints", []):
            assert spread["labelSelector"] == part.object["spec"]["selector"]
        if part.object["kind"] == "StatefulSet":
            assert part.object["spec"]["serviceName"] == name
    for scaler in of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject"):
        target = scaler["spec"]["scaleTargetRef"]
        part = parts[target["name"]]
        assert (target["apiVersion"], target["kind"]) == (part.object["apiVersion"], part.object["kind"])
        assert "replicas" not in part.object["spec"], "applied anew, it would undo what was scaled"
    scaled = {each["spec"]["scaleTargetRef"]["name"] for each in of_kind(objects, "ScaledObject")}
    assert scaled == ({"slm-worker", "llm-worker"} if has("keda", way) else set())


@needs_kubectl
@ways
def test_nobody_is_reached_but_by_whom_he_is_meant_for(way: tuple[str, ...]) -> None:
    wanted = {("gateway", "router", 50050)}
    wanted |= {("router", f"{role}-worker", 50051) for role in ("slm", "llm")}
    if not has("own-redis", way):
        wanted |= {(name, "redis", 6379) for name in ("router", "slm-worker", "llm-worker")}
    objects = rendered(*way)
    assert reached(objects) == wanted
    # From other namespaces: those that are labelled for it, and a Prometheus.
    for policy in of_kind(objects, "NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []):
            for who in rule["from"]:
                if "namespaceSelector" in who:
                    assert {**who["namespaceSelector"].get("matchLabels", {}), **_labels(who)} in (
                        {"rstitch/may-ask": "true"},
                        {NAME: "prometheus"},
                    )


def _labels(who: Object) -> dict[str, str]:
    return dict(who.get("podSelector", {}).get("matchLabels", {}))


@needs_kubectl
@ways
def test_pods_are_closed(way: tuple[str, ...]) -> None:
    """What the namespace's label `restricted` asks for, and what compose.yaml has beyond that."""
    objects = rendered(*way)
    (namespace,) = of_kind(objects, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    accounts = of_kind(objects, "ServiceAccount")
    assert all(each["automountServiceAccountToken"] is False for each in accounts)
    for name, part in workloads(objects).items():
        pod, container = part.pod, part.container
        assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
        assert pod["serviceAccountName"] == name
        assert name in {each["metadata"]["name"] for each in accounts}
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == _user_of_the_image()
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]
        kinds = {kind for volume in pod.get("volumes", []) for kind in volume if kind != "name"}
        assert kinds <= {"emptyDir", "secret", "configMap"}
        mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
        assert len(mounts) == len(set(mounts))
        claims = [each["metadata"]["name"] for each in part.object["spec"].get("volumeClaimTemplates", [])]
        volumes = [*claims, *(volume["name"] for volume in pod.get("volumes", []))]
        assert sorted(volumes) == sorted({mount["name"] for mount in container["volumeMounts"]})
        # No secret stands where `kubectl describe` shows it.
        for variable, value in part.environment().items():
            if re.search(r"PASSWORD|SECRET|TOKEN|_KEY$", variable):
                assert value.startswith("/run/secrets/"), variable


def _user_of_the_image() -> int:
    (told,) = re.findall(r"useradd --uid (\d+)", (ROOT / "deploy/Dockerfile").read_text())
    return int(told)


@needs_kubectl
@ways
def test_a_pod_is_given_the_time_that_its_drain_takes(way: tuple[str, ...]) -> None:
    for name, settings in SETTINGS.items():
        part = workloads(rendered(*way))[name]
        grace_s = float(part.environment()["RSTITCH_DRAIN_GRACE_S"])
        assert grace_s != settings.model_fields["drain_grace_s"].default
        stop = part.container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
        # A Service's endpoint goes a moment after the pod is told to end; a worker has none, and says so itself.
        assert (stop[0], float(stop[1]) > 0) == ("sleep", not name.endswith("-worker"))
        # What is not sent and not ended then is left: docs/operations.md.
        assert part.pod["terminationGracePeriodSeconds"] >= float(stop[1]) + grace_s + 10


@needs_kubectl
def test_the_services_are_those_of_compose() -> None:
    services = compose("compose.yaml")["services"]
    for overlay in ("base", "gpu", "tensor-parallel"):
        for name, part in workloads(rendered(overlay)).items():
            image, _, tag = part.container["image"].partition(":")
            assert f"{image}:{tag}" == services[name]["image"]
            command = part.container.get("command", services[name].get("command"))
            if name != "redis":
                assert command == services[name].get("command")
    cpu = compose("compose.yaml", "compose.cpu.yaml")["services"]
    for name, part in workloads(rendered("cpu")).items():
        assert part.container["image"] == cpu[name]["image"]
    for role in ("slm-worker", "llm-worker"):
        told, here = cpu[role]["environment"], workloads(rendered("cpu"))[role].environment()
        for variable in ("RSTITCH_MODEL", "RSTITCH_DEVICE", "RSTITCH_DTYPE", "RSTITCH_THREADS", "HF_HUB_OFFLINE"):
            assert here[variable] == told[variable]
        told, here = services[role]["environment"], workloads(rendered("gpu"))[role].environment()
        for variable in ("RSTITCH_MODEL", "RSTITCH_DEVICE", "RSTITCH_DTYPE"):
            assert here[variable] == told[variable]
    router = workloads(rendered("gpu"))["router"].environment()
    assert router["RSTITCH_TAU"] == services["router"]["environment"]["RSTITCH_TAU"]


@needs_kubectl
def test_redis_keeps_what_compose_has_it_keep() -> None:
    plain = compose("compose.yaml")["services"]["redis"]["command"]
    here = workloads(rendered("base"))["redis"].container["command"]
    assert here[: len(plain)] == plain
    secure = compose("compose.yaml", "compose.tls.yaml")["services"]["redis"]["command"]
    there = secure[-1]
    for old, new in (("secrets/redis_password", "secrets/redis/password"), ("secrets/ca", "secrets/tls/ca.crt")):
        there = there.replace(old, new)
    there = there.replace("secrets/cert", "secrets/tls/tls.crt").replace("secrets/key", "secrets/tls/tls.key")
    told = workloads(rendered(*SECURE))["redis"].container["command"]
    assert told[:-1] == secure[:-1]
    assert re.split(r"[\s\\]+", told[-1].replace('"', "")) == re.split(r"[\s\\]+", there.replace('"', ""))


@needs_kubectl
def test_a_worker_has_a_card_and_one_of_several_as_many_as_it_spans() -> None:
    for overlay, cards in (("cpu", (0, 0)), ("gpu", (1, 1)), ("tensor-parallel", (1, 2))):
        parts = workloads(rendered(overlay))
        found = [
            parts[name].container["resources"]["limits"].get("nvidia.com/gpu", 0)
            for name in ("slm-worker", "llm-worker")
        ]
        assert tuple(map(int, found)) == cards
        assert int(parts["llm-worker"].environment().get("RSTITCH_TP", "1")) == max(cards[1], 1)
        assert all(
            bool(parts[name].pod.get("tolerations")) == (overlay != "cpu") for name in ("slm-worker", "llm-worker")
        )
    volumes = workloads(rendered("tensor-parallel"))["llm-worker"].pod["volumes"]
    assert [each["emptyDir"]["medium"] for each in volumes if each["name"] == "shm"] == ["Memory"]


@needs_kubectl
def test_what_is_there_twice_is_the_same() -> None:
    """The operator's rules and Redis's users are copies, which `make manifests` writes."""
    rule = yaml.safe_load((KUBERNETES / "components/prometheus-operator/alerts.yaml").read_text())
    assert rule["spec"] == yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())
    sent = named(rendered("gpu", "prometheus-operator"), "PrometheusRule", "rstitch")["spec"]
    assert json.dumps(sent, sort_keys=True).replace(r"\n\n", r"\n") == json.dumps(rule["spec"], sort_keys=True)
    users = KUBERNETES / "components/tls/users.acl"
    assert users.read_text() == (ROOT / "deploy/redis-users.acl").read_text()


@needs_kubectl
def test_grafana_gets_every_dashboard() -> None:
    made = named(rendered("gpu", "prometheus-operator"), "ConfigMap", "rstitch-dashboards")
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    files = sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))
    assert {path.name: path.read_text() for path in files} == made["data"]


@needs_kubectl
def test_jobs_are_called_as_dashboards_and_alerts_call_them() -> None:
    objects = rendered("gpu", "prometheus-operator")
    parts = workloads(objects)
    for each in of_kind(objects, "PodMonitor"):
        assert parts[each["metadata"]["name"]].labels[each["spec"]["jobLabel"]] == f"rstitch-{each['metadata']['name']}"
    jobs = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert {f"rstitch-{each['metadata']['name']}" for each in of_kind(objects, "PodMonitor")} == {
        job["job_name"] for job in jobs
    }


@needs_kubectl
def test_each_role_is_scaled_by_figures_of_its_own() -> None:
    objects = rendered("gpu", "keda")
    queries: dict[str, list[str]] = {}
    for scaler in of_kind(objects, "ScaledObject"):
        name = scaler["metadata"]["name"]
        triggers = scaler["spec"]["triggers"]
        assert [each["name"] for each in triggers] == ["waiting", "pages", "share"]
        queries[name] = [each["metadata"]["query"].replace(name.partition("-")[0], "ROLE") for each in triggers]
        down = scaler["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
        drain_s = workloads(objects)[name].pod["terminationGracePeriodSeconds"]
        assert down["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 300}]
        assert min(down["policies"][0]["periodSeconds"], down["stabilizationWindowSeconds"]) > drain_s
    assert queries["slm-worker"] == queries["llm-worker"]
    assert all("ROLE" in query for query in queries["slm-worker"])


@needs_kubectl
@pytest.mark.parametrize("way", [SECURE, *OWN_REDIS], ids="+".join)
def test_secrets_that_are_mounted_are_those_that_the_document_makes(way: tuple[str, ...]) -> None:
    text = (ROOT / "docs/kubernetes.md").read_text()
    mounted = {
        volume["secret"]["secretName"]
        for part in workloads(rendered(*way)).values()
        for volume in part.pod["volumes"]
        if "secret" in volume
    }
    assert "redis-password" in mounted
    assert {name for name in mounted if f"`{name}`" not in text} == set()


@needs_kubectl
def test_the_overlays_that_the_document_shows_can_be_had(tmp_path: Path) -> None:
    shown = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs/kubernetes.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(shown) == 2
    found = []
    for number, text in enumerate(shown):
        folder = tmp_path / str(number)
        folder.mkdir()
        above = os.path.relpath(ROOT, folder.resolve())
        (folder / "kustomization.yaml").write_text(text.replace("../deploy", f"{above}/deploy"))
        found.append(workloads(kustomized(folder)))
    assert found[0]["llm-worker"].environment()["RSTITCH_QUANTIZE"] == "int4"
    assert found[0]["router"].container["image"] == "registry.example/rstitch-router:0.1.0"
    assert '"rstitch.example"' in found[0]["gateway"].environment()["RSTITCH_ALLOWED_HOST"]
    assert found[1]["slm-worker"].environment()["RSTITCH_REDIS"] == "rediss://rstitch@redis.example:6379/0"
    assert "redis" not in found[1]


def test_the_document_names_every_overlay_and_component() -> None:
    text = (ROOT / "docs/kubernetes.md").read_text()
    for path in [*(KUBERNETES / "overlays").iterdir(), *(KUBERNETES / "components").iterdir()]:
        assert f"deploy/kubernetes/{path.relative_to(KUBERNETES)}" in text, path
    assert OLDEST in text
