"""A real Prometheus scrapes a real stack under load: no panel is empty, no alert is broken, and one is fired."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from rstitch.client import Client
from tests.support.otlp_receiver import OtlpReceiver
from tests.support.prometheus import Prometheus, needs_prometheus, wait_for
from tests.support.queries import alert_queries, panel_queries
from tests.support.scraped import ScrapedStack, ask_everything

pytestmark = [pytest.mark.soak, needs_prometheus, pytest.mark.timeout(400)]
INTERVAL, SPAN = "15s", "60s"


@pytest.fixture(scope="module")
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as running:
        yield running


@pytest.fixture(scope="module")
def stack(receiver: OtlpReceiver) -> Iterator[ScrapedStack]:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint}
    with ScrapedStack("--guard", "on", secure=True, env=env) as running:
        yield running


@pytest.fixture(scope="module")
def prometheus(stack: ScrapedStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with Prometheus(tmp_path_factory.mktemp("prometheus"), stack) as running:
        yield running


def load(stack: ScrapedStack, over: threading.Event) -> None:
    with Client(stack.router_address, credentials=stack.credentials) as client:
        while not over.is_set():
            ask_everything(client, num=2, max_new_tokens=40)


def test_no_query_is_empty_and_a_lost_worker_is_told_of(
    stack: ScrapedStack, prometheus: Prometheus, receiver: OtlpReceiver
) -> None:
    queries = {(query.where, query.filled(INTERVAL, SPAN)) for query in panel_queries()}
    assert len(queries) > 60
    empty: set[tuple[str, str]] = set()
    over = threading.Event()
    with ThreadPoolExecutor(4) as threads:
        asking = [threads.submit(load, stack, over) for _ in range(4)]

        def all_have_values() -> bool:
            # All at one moment: a panel that had a value and has none any more, though there is load, is empty, too.
            assert not any(each.done() for each in asking), "the load goes on"
            empty.clear()
            empty.update((where, query) for where, query in queries if not prometheus.values(query))
            return not empty

        try:
            wait_for(all_have_values, 120, lambda: "\n".join(f"{where}: {query}" for where, query in sorted(empty)))
        finally:
            over.set()
    for each in asking:
        each.result()

    # Each alert is evaluated without an error; what it compares is there, whether it fires or not.
    rules = prometheus.rules()
    for alert in alert_queries():
        rule = rules[alert.where]
        assert rule["health"] == "ok", rule
        for metric in alert.metrics:
            assert prometheus.values(metric), metric

    query = "gen_ai_server_time_to_first_token_seconds_bucket"
    told = prometheus.ask("query_exemplars", query=query, start=0, end=2**32)
    traces = {exemplar["labels"]["trace_id"] for series in told for exemplar in series["exemplars"]}
    assert traces
    wait_for(lambda: traces <= {span.trace_id.hex() for span in receiver.named("rstitch.generate")}, 30)

    assert rules["WorkerLost"]["state"] == rules["RstitchProcessDown"]["state"] == "inactive"
    stack.worker("llm").kill()
    for state in ("pending", "firing"):
        wait_for(lambda: prometheus.rules()["WorkerLost"]["state"] == state, 90)  # noqa: B023 - it is waited for here
    (lost,) = prometheus.rules()["WorkerLost"]["alerts"]
    assert lost["labels"]["rstitch_model"] == "llm"
    assert prometheus.rules()["RouterNotReady"]["state"] == "inactive"
    stack.worker("llm").restart()
    wait_for(lambda: prometheus.rules()["WorkerLost"]["state"] == "inactive", 90)
