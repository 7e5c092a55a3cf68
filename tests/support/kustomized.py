"""What `kubectl apply -k` would send to a cluster, and what it comes to: a pod's environment, who reaches whom."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy/kubernetes"
WORKLOADS = ("gateway", "router", "slm-worker", "llm-worker", "redis")
NAME = "app.kubernetes.io/name"

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl on PATH")

Object = dict[str, Any]


@functools.cache
def rendered(overlay: str, *components: str) -> tuple[Object, ...]:
    """The objects of `base` or an overlay, with components laid over it in this order."""
    start = KUBERNETES / (overlay if overlay == "base" else f"overlays/{overlay}")
    with tempfile.TemporaryDirectory() as folder:
        told = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": "rstitch",
            "resources": [os.path.relpath(start, os.path.realpath(folder))],
            "components": [
                os.path.relpath(KUBERNETES / f"components/{name}", os.path.realpath(folder)) for name in components
            ],
        }
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(told))
        return kustomized(Path(folder))


def kustomized(folder: Path) -> tuple[Object, ...]:
    """The objects of a kustomization."""
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def of_kind(objects: tuple[Object, ...], *kinds: str) -> list[Object]:
    return [each for each in objects if each["kind"] in kinds]


def named(objects: tuple[Object, ...], kind: str, name: str) -> Object:
    (found,) = (each for each in of_kind(objects, kind) if each["metadata"]["name"] == name)
    return found


@dataclass(frozen=True)
class Workload:
    """A Deployment or StatefulSet with one container."""

    object: Object
    objects: tuple[Object, ...]

    @property
    def name(self) -> str:
        return str(self.object["metadata"]["name"])

    @property
    def labels(self) -> dict[str, str]:
        """The labels of its pods."""
        return dict(self.object["spec"]["template"]["metadata"]["labels"])

    @property
    def pod(self) -> Object:
        return dict(self.object["spec"]["template"]["spec"])

    @property
    def container(self) -> Object:
        (only,) = self.pod["containers"]
        return dict(only)

    @property
    def ports(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for port in self.container["ports"]}

    def environment(self, pod_name: str = "pod-0", pod_ip: str = "10.1.2.3") -> dict[str, str]:
        """The variables of its container, as a kubelet makes them."""
        found: dict[str, str] = {}
        for source in self.container.get("envFrom", []):
            found |= named(self.objects, "ConfigMap", source["configMapRef"]["name"])["data"]
        fields = {"metadata.name": pod_name, "status.podIP": pod_ip}
        for each in self.container.get("env", []):
            value = each.get("value")
            if value is None:
                value = fields[each["valueFrom"]["fieldRef"]["fieldPath"]]
            found[each["name"]] = _expanded(value, found)
        return found


def _expanded(value: str, known: Mapping[str, str]) -> str:
    return re.sub(r"\$\((\w+)\)", lambda match: known.get(match[1], match[0]), value)


def workloads(objects: tuple[Object, ...]) -> dict[str, Workload]:
    """What runs, by name."""
    return {each["metadata"]["name"]: Workload(each, objects) for each in of_kind(objects, "Deployment", "StatefulSet")}


def selects(selector: Object, labels: Mapping[str, str]) -> bool:
    """Whether a label selector means something with these labels; an empty one means everything."""
    unknown = set(selector) - {"matchLabels", "matchExpressions"}
    assert not unknown, unknown
    told = selector.get("matchLabels", {})
    for each in selector.get("matchExpressions", []):
        assert each["operator"] == "In"
        if labels.get(each["key"]) not in each["values"]:
            return False
    return all(labels.get(key) == value for key, value in told.items())


def reached(objects: tuple[Object, ...]) -> set[tuple[str, str, int]]:
    """Which workload may connect to which, and to what port, by the network policies of both ends."""
    policies = of_kind(objects, "NetworkPolicy")
    parts = workloads(objects).values()
    return {
        (one.name, other.name, port)
        for one in parts
        for other in parts
        for name, port in other.ports.items()
        if _lets(policies, "Egress", one, other, {name, port}) and _lets(policies, "Ingress", other, one, {name, port})
    }


def _lets(policies: list[Object], way: str, own: Workload, peer: Workload, port: set[str | int]) -> bool:
    mine = [each["spec"] for each in policies if selects(each["spec"]["podSelector"], own.labels)]
    binding = [spec for spec in mine if way in spec["policyTypes"]]
    if not binding:
        return True
    rules = [rule for spec in binding for rule in spec.get(way.lower(), [])]
    peers = "to" if way == "Egress" else "from"
    return any(
        any(_is_in_namespace(who, peer) for who in rule[peers]) and port & {each["port"] for each in rule["ports"]}
        for rule in rules
    )


def _is_in_namespace(who: Object, peer: Workload) -> bool:
    """Whether a rule means a pod of our own namespace, which has no label but what Kubernetes gives it."""
    if "ipBlock" in who:
        return False
    if "namespaceSelector" in who and not selects(who["namespaceSelector"], {}):
        return False
    return selects(who.get("podSelector", {}), peer.labels)


def kustomizations() -> Iterator[tuple[Path, Object]]:
    """Each kustomization of ours with its folder."""
    for start in (KUBERNETES, ROOT / "deploy/grafana"):
        for path in sorted(start.rglob("kustomization.yaml")):
            yield path.parent, yaml.safe_load(path.read_text())
