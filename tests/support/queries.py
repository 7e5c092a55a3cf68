"""The queries of dashboards and alerts, and the names that they use."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DASHBOARDS = sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))
PROMETHEUS = ROOT / "deploy/prometheus"
SCALERS = sorted((ROOT / "deploy/kubernetes/components/keda").glob("*-worker.yaml"))
_FUNCTIONS = {
    "sum",
    "min",
    "max",
    "avg",
    "abs",
    "avg_over_time",
    "rate",
    "increase",
    "histogram_quantile",
    "vector",
    "time",
}
_WORDS = {"by", "on", "group_left", "ignoring", "or", "and", "offset", "bool"}


@dataclass(frozen=True)
class Query:
    where: str  # dashboard and panel, or the alert
    expr: str
    is_instant: bool = True

    def filled(self, interval: str, span: str) -> str:
        """The query as Grafana sends it."""
        return self.expr.replace("$__rate_interval", interval).replace("$__range", span)

    @property
    def metrics(self) -> set[str]:
        """The names of series that it reads."""
        bare = re.sub(r"\[[^\]]*\]|\"[^\"]*\"|\{[^}]*\}", "", self.expr)
        bare = re.sub(r"\b(by|on|group_left|ignoring)\s*\([^)]*\)", "", bare)
        return set(re.findall(r"[a-z_]\w*", re.sub(r"\b\d\w*", "", bare))) - _FUNCTIONS - _WORDS

    @property
    def labels(self) -> set[str]:
        """The labels that it chooses or groups by."""
        chosen = re.findall(r"[{,]\s*(\w+)\s*(?:=~|!~|!=|=)", self.expr)
        grouped = re.findall(r"\b(?:by|on|group_left|ignoring)\s*\(([^)]*)\)", self.expr)
        return set(chosen) | {name.strip() for names in grouped for name in names.split(",") if name.strip()}


def dashboards() -> dict[str, dict[str, Any]]:
    """Each dashboard by its file's name."""
    return {path.stem: json.loads(path.read_text()) for path in DASHBOARDS}


def alerts() -> list[dict[str, Any]]:
    """The rules of all alerts."""
    groups = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panel_queries() -> list[Query]:
    """Every query of every panel."""
    return [
        Query(f"{name}: {panel['title']}", target["expr"], bool(target.get("instant")))
        for name, dashboard in dashboards().items()
        for panel in dashboard["panels"]
        for target in panel["targets"]
    ]


def alert_queries() -> list[Query]:
    """The expression of every alert."""
    return [Query(rule["alert"], rule["expr"]) for rule in alerts()]


def scaling_queries() -> list[Query]:
    """What workers are scaled by in a cluster."""
    return [
        Query(f"{path.stem}: {trigger['name']}", trigger["metadata"]["query"])
        for path in SCALERS
        for trigger in yaml.safe_load(path.read_text())["spec"]["triggers"]
    ]
