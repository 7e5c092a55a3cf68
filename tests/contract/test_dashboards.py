"""Dashboards and alerts show what is there: queries name what a running stack has, and each alert is explained."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics_core import Metric

from rstitch.authority import PARTS
from tests.support.queries import (
    PROMETHEUS,
    ROOT,
    Query,
    alert_queries,
    alerts,
    dashboards,
    panel_queries,
    scaling_queries,
)
from tests.support.scraped import ScrapedStack, get, tls_context

# What Prometheus itself adds to what it scrapes.
OF_PROMETHEUS = {"up"}
LABELS_OF_PROMETHEUS = {"job", "instance", "le"}
# With TLS alone: tests/security/test_mtls_everywhere.py scrapes it, and the soak test below asks for it.
WITH_TLS = {"rstitch_certificate_expiry_seconds"}
# On a stack that has been asked much already the guard may have no reason to look; no session moves where nobody goes.
RARE = {"rstitch_guard_looks_total", "rstitch_fleet_moves_total"}

promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="there is no promtool on PATH: Debian has it in `prometheus`"
)


def test_queries_name_metrics_and_labels_that_a_running_stack_has(scraped: list[Metric]) -> None:
    names = {sample.name for family in scraped for sample in family.samples}
    labels = {label for family in scraped for sample in family.samples for label in sample.labels}
    assert len(scaling_queries()) == 6
    queries = [*panel_queries(), *alert_queries(), *scaling_queries()]
    assert len(queries) > 60
    for query in queries:
        assert query.metrics, query
        assert query.metrics <= names | OF_PROMETHEUS | WITH_TLS | RARE, query
        assert query.labels <= labels | LABELS_OF_PROMETHEUS | {"rstitch_certificate"}, query


def test_bounds_that_are_compared_with_are_bounds_of_buckets(scraped: list[Metric]) -> None:
    """A quantile is known no better than its bucket, and a bucket of another bound is not there."""
    bounds: dict[str, set[float]] = {}
    for family in scraped:
        found = {float(sample.labels["le"]) for sample in family.samples if "le" in sample.labels}
        bounds.setdefault(f"{family.name}_bucket", set()).update(found)
    compared = 0
    for query in [*panel_queries(), *alert_queries()]:
        told = re.findall(r'le="([\d.]+)"', query.expr)
        told += re.findall(r"^histogram_quantile.* > ([\d.]+)$", query.expr)
        for bound in told:
            (metric,) = (name for name in query.metrics if name.endswith("_bucket"))
            assert float(bound) in bounds[metric], query
            compared += 1
    assert compared >= 3


def test_the_names_that_a_query_uses_are_found() -> None:
    """Else the test above could not fail."""
    expr = 'sum by (le, job) (rate(a_total{b!~"c|d", e="f(g)"}[5m]))'
    expr += " / on (h) group_left () (i offset 1d or vector(0)) > 1e3"
    query = Query("", expr)
    assert query.metrics == {"a_total", "i"}
    assert query.labels == {"le", "job", "b", "e", "h"}


def test_dashboards_can_be_read() -> None:
    found = dashboards()
    assert set(found) == {"service", "routing", "workers", "redis"}
    assert len({dashboard["uid"] for dashboard in found.values()}) == len(found)
    for dashboard in found.values():
        places: set[tuple[int, int]] = set()
        assert dashboard["templating"]["list"][0]["query"] == "prometheus"
        assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
        for panel in dashboard["panels"]:
            assert panel["title"]
            assert panel["description"], panel["title"]
            assert _unit(panel), panel["title"]
            at = panel["gridPos"]
            squares = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
            assert not places & squares, f"{panel['title']} lies on another panel"
            assert at["x"] + at["w"] <= 24
            places |= squares
            assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


def _unit(panel: dict[str, Any]) -> str:
    if panel["type"] == "heatmap":
        return str(panel["options"]["yAxis"]["unit"])
    return str(panel["fieldConfig"]["defaults"]["unit"])


def test_exemplars_lead_to_the_traces() -> None:
    text = (ROOT / "deploy/grafana/provisioning/datasources/rstitch.yml").read_text()
    by_uid = {each["uid"]: each for each in yaml.safe_load(text)["datasources"]}
    (way,) = by_uid["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert way["name"] == "trace_id"
    assert by_uid[way["datasourceUid"]]["type"] == "jaeger"
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    for each in by_uid.values():
        assert each["url"].removeprefix("http://").partition(":")[0] in services
    timed = [q for name in dashboards().values() for p in name["panels"] for q in p["targets"] if "gen_ai" in q["expr"]]
    assert timed
    assert all(query["exemplar"] for query in timed)
    assert "--enable-feature=exemplar-storage" in services["prometheus"]["command"]


def test_each_alert_has_a_runbook_and_a_test() -> None:
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs/runbooks.md").read_text(), re.MULTILINE)
    tests = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
    asked = [case for test in tests for case in test["alert_rule_test"]]
    names = [rule["alert"] for rule in alerts()]
    assert headings == names
    for rule in alerts():
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("page", "ticket")
        fires = {bool(case["exp_alerts"]) for case in asked if case["alertname"] == rule["alert"]}
        assert True in fires, rule["alert"]
    silent = {case["alertname"] for case in asked if not case["exp_alerts"]}
    assert silent == set(names)


def test_prometheus_looks_where_compose_has_the_services_and_calls_them_as_they_do() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    for name, scheme in (("prometheus.yml", "http"), ("prometheus.tls.yml", "https")):
        jobs = yaml.safe_load((PROMETHEUS / name).read_text())["scrape_configs"]
        # Of these there may be several containers, and each is scraped.
        found = {job["job_name"]: job["dns_sd_configs"][0] for job in jobs if "dns_sd_configs" in job}
        targets = {name: [(told["names"], told["type"], told["port"])] for name, told in found.items()}
        assert targets == {f"rstitch-{each}": [([each], "A", 9464)] for each in ("router", "slm-worker", "llm-worker")}
        given = {job["job_name"]: job["static_configs"][0]["targets"] for job in jobs if "static_configs" in job}
        # Where keys are asked for it wants one, which nobody has made yet.
        assert given == ({"rstitch-gateway": ["gateway:8000"]} if scheme == "http" else {})
        assert {each for told in found.values() for each in told["names"]} | {"gateway"} <= set(services)
        if scheme == "https":  # who is found by an address is known by a name of its certificate
            names = {job["job_name"]: job["tls_config"]["server_name"] for job in jobs}
            parts = {"rstitch-router": "router", "rstitch-slm-worker": "slm", "rstitch-llm-worker": "llm"}
            assert all(names[job] in PARTS[part] for job, part in parts.items())
        assert {job.get("scheme", "http") for job in jobs} == {scheme}


@promtool
@pytest.mark.parametrize("config", ["prometheus.yml", "prometheus.tls.yml"])
def test_prometheus_takes_its_files(config: str) -> None:
    # The certificates are in the containers only.
    told = ran("check", "config", "--syntax-only", config)
    assert "SUCCESS" in told


@promtool
def test_alerts_fire_when_they_should() -> None:
    ran("check", "rules", "alerts.yml")
    ran("test", "rules", "alerts_test.yml")


@promtool
def test_prometheus_takes_what_a_cluster_scales_by(tmp_path: Path) -> None:
    rules = [{"record": f"scaling:{number}", "expr": query.expr} for number, query in enumerate(scaling_queries())]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "scaling", "rules": rules}]}))
    assert "6 rules found" in ran("check", "rules", str(tmp_path / "rules.yml"))


@promtool
def test_what_is_scraped_is_as_prometheus_wants_it(tiny_stack: ScrapedStack) -> None:

    context = tls_context(tiny_stack.lock.client) if tiny_stack.lock else None
    for address in tiny_stack.metrics.values():
        body, _ = get(f"{'https' if context else 'http'}://{address}/metrics", context, accept="text/plain")
        done = subprocess.run(["promtool", "check", "metrics"], input=body, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 3), done.stderr
        # Of its advice all is taken but this: a sum of seconds is called as OpenTelemetry does.
        assert not done.stderr.strip(), done.stderr


def ran(*arguments: str) -> str:
    done = subprocess.run(["promtool", *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
