"""What the gateway counts can be scraped, and has the routes as labels and nobody's ids."""

from __future__ import annotations

import httpx2
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.support.gateways import chat


def test_requests_are_counted_by_route_and_status(http: httpx2.Client) -> None:
    http.post("/v1/chat/completions", json=chat(max_tokens=1))
    http.get("/v1/chat/completions/nobody-at-all")
    http.get("/nowhere")
    response = http.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    families = {family.name: family for family in text_string_to_metric_families(response.text)}  # type: ignore[no-untyped-call]
    told = {
        (sample.labels["http_route"], sample.labels["http_response_status_code"])
        for sample in families["http_server_request_duration_seconds"].samples
        if sample.name.endswith("_count") and sample.value
    }
    wanted = {
        ("/v1/chat/completions", "200"),
        ("/v1/chat/completions/{completion_id}", "404"),
        ("_OTHER", "404"),
    }
    assert wanted <= told
    assert "nobody-at-all" not in response.text
    (active,) = families["http_server_active_requests"].samples
    assert active.value == 1  # this one
