"""What is measured can be scraped: the text, and the port."""

from __future__ import annotations

import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client.parser import text_string_to_metric_families as plain_families

from rstitch.errors import RstitchError
from rstitch.service.expiry import not_after
from rstitch.service.metrics import Metrics, setup_metrics
from rstitch.service.scraping import MetricsListener, MetricsSettings
from rstitch.service.tally import Tally
from rstitch.service.tls import ServerTls
from tests.support.certificates import Authority
from tests.support.otlp_receiver import MetricsReceiver
from tests.support.scraped import OPENMETRICS, get, parsed, samples, tls_context

BOUNDS = [0.1, 1.0, 10.0]


def measured() -> Metrics:
    metrics = setup_metrics("test", None, scraped=True)
    metrics.meter.create_counter("kept.things", "{thing}", "Things.").add(2, {"of.kind": True})
    metrics.gauge_of("held", "1", "A share.", lambda: [(0.5, {})])
    metrics.sum_of("spent", "s", "Time.", lambda: [(1.5, {})])
    return metrics


def test_names_units_and_labels_are_as_prometheus_has_them() -> None:
    body, content_type = measured().exposition(OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in parsed(body.decode())}
    assert samples([*families.values()], "kept_things_total") == {(("of_kind", "true"),): 2}
    assert samples([*families.values()], "held_ratio") == {(): 0.5}
    assert samples([*families.values()], "spent_seconds_total") == {(): 1.5}
    assert families["spent_seconds"].unit == "seconds"
    assert families["kept_things"].documentation == "Things."
    (target,) = families["target"].samples
    assert target.labels["service_name"] == "test"


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain;version=0.0.4", "application/openmetrics", "\x00;=;,,"])
def test_who_does_not_ask_for_openmetrics_gets_plain_text(accept: str) -> None:
    body, content_type = measured().exposition(accept)
    assert content_type.startswith("text/plain; version=0.0.4")
    assert {"kept_things", "held_ratio"} <= {family.name for family in plain_families(body.decode())}


def test_a_tally_is_the_histogram_that_the_sdk_counts_both_sent_and_scraped() -> None:
    values = [0.05, 0.1, 0.100001, 1.0, 5.0, 10.0, 11.0, 1e9]
    with MetricsReceiver() as receiver:
        metrics = setup_metrics("test", receiver.endpoint, scraped=True)
        by_sdk = metrics.meter.create_histogram("by.sdk", "s", "Times.", explicit_bucket_boundaries_advisory=BOUNDS)
        tally = Tally(BOUNDS)
        metrics.histogram_of("by.hand", "s", "Times.", BOUNDS, tally.read)
        for value in values:
            by_sdk.record(value, {"a": "b"})
            tally.row({"a": "b"}).add(value)
        tally.row({"a": "c"}).add_counted([1, 0, 2, 0], 7.5)
        families = parsed(metrics.exposition(OPENMETRICS)[0].decode())
        metrics.shutdown()
        by_label = {labels["a"]: told for labels, told in receiver.points("by.hand")}
        assert by_label == {"b": receiver.points("by.sdk")[0][1], "c": (3, 7.5)}
    for ending in ("bucket", "count", "sum"):
        ours = samples(families, f"by_hand_seconds_{ending}")
        theirs = samples(families, f"by_sdk_seconds_{ending}")
        assert theirs == {labels: value for labels, value in ours.items() if dict(labels)["a"] == "b"}
    assert samples(families, "by_hand_seconds_count")[(("a", "c"),)] == 3


def test_an_exemplar_is_the_last_trace_of_its_bucket_and_stays() -> None:
    metrics = setup_metrics("test", None, scraped=True)
    timer = metrics.meter.create_histogram("timed", "s", explicit_bucket_boundaries_advisory=BOUNDS)
    tracer = TracerProvider().get_tracer("test")
    spans = [tracer.start_span("one"), tracer.start_span("two"), tracer.start_span("three")]
    for span, value in zip(spans, [0.5, 0.6, 20.0], strict=True):
        timer.record(value, {"k": "v"}, trace.set_span_in_context(span))
    timer.record(0.01)  # of no trace
    wanted = {"1.0": (spans[1], 0.6), "+Inf": (spans[2], 20.0)}
    for _ in range(2):  # there may be two who scrape
        families = parsed(metrics.exposition(OPENMETRICS)[0].decode())
        found = {
            sample.labels["le"]: sample.exemplar
            for family in families
            for sample in family.samples
            if sample.name == "timed_seconds_bucket" and sample.exemplar
        }
        assert found.keys() == wanted.keys()
        for bound, (span, value) in wanted.items():
            context = span.get_span_context()
            assert found[bound].labels["trace_id"] == trace.format_trace_id(context.trace_id)
            assert found[bound].labels["span_id"] == trace.format_span_id(context.span_id)
            assert found[bound].value == value
    assert b"trace_id" not in metrics.exposition("")[0], "the older format has no place for it"


def test_nothing_is_told_where_nothing_is_scraped() -> None:
    assert setup_metrics("test", None).exposition(OPENMETRICS)[0] == b""


@contextmanager
def listening(tls: ServerTls | None = None) -> Iterator[MetricsListener]:
    listener = MetricsListener("127.0.0.1:0", measured().exposition, tls)
    try:
        yield listener
    finally:
        listener.close()


def test_the_port_has_metrics_and_nothing_else() -> None:
    with listening() as listener:
        url = f"http://127.0.0.1:{listener.port}"
        assert "kept_things_total" in get(f"{url}/metrics")[0]
        assert get(f"{url}/metrics?name=x", accept="")[1].startswith("text/plain")
        for path, method, code in (("/", "GET", 404), ("/metrics/", "GET", 404), ("/metrics", "POST", 501)):
            request = urllib.request.Request(url + path, method=method)
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request, timeout=30)
            refused.value.close()
            assert refused.value.code == code


def test_those_who_say_nothing_hold_up_nobody_and_are_not_many() -> None:
    with listening() as listener:
        silent = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(15)]
        assert "kept_things_total" in get(f"http://127.0.0.1:{listener.port}/metrics")[0]
        silent += [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(2)]
        silent[-1].settimeout(30)
        assert silent[-1].recv(1) == b"", "there is no room for it"
        for each in silent:
            each.close()


def test_a_taken_port_is_refused_by_its_flag() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = MetricsSettings(metrics_listen=f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(RstitchError) as caught:
            settings.make_metrics("test", insecure=False)
    assert (caught.value.reason, caught.value.field) == ("CANNOT_LISTEN", "--metrics-listen")


def test_beyond_this_machine_it_wants_certificates_on_both_sides(ours: Authority) -> None:
    served = ours.served_as("router")
    for told, lacks in (({}, {"--tls-cert", "--tls-client-ca"}), (served, {"--tls-client-ca"})):
        with pytest.raises(RstitchError) as caught:
            MetricsSettings(metrics_listen="0.0.0.0:0", **told).make_metrics("test", insecure=False)
        assert (caught.value.reason, caught.value.field) == ("EXPOSED", "--metrics-listen")
        remedy = caught.value.remedy or ""
        assert {flag for flag in ("--tls-cert", "--tls-client-ca") if flag in remedy} == lacks
        assert "--insecure" in remedy
    for told, insecure in (({}, True), ({**served, "tls_client_ca": ours.ca}, False)):
        metrics = MetricsSettings(metrics_listen="0.0.0.0:0", **told).make_metrics("test", insecure=insecure)
        assert metrics.listener is not None
        assert metrics.listener.port > 0
        metrics.shutdown()


def test_with_tls_it_hears_whom_the_authorities_know_and_takes_renewed_files(ours: Authority, tmp_path: Path) -> None:
    def put(part: str) -> None:
        for ending in ("pem", "key"):
            (tmp_path / f"new.{ending}").write_bytes(Path(ours.file(f"{part}.{ending}")).read_bytes())
            (tmp_path / f"new.{ending}").rename(tmp_path / f"served.{ending}")

    put("router")
    with listening(ServerTls(str(tmp_path / "served.pem"), str(tmp_path / "served.key"), ours.ca, frozenset())) as it:
        url = f"https://localhost:{it.port}/metrics"
        assert "kept_things_total" in get(url, tls_context(ours.asking_as("prometheus")))[0]
        stranger = ssl.create_default_context(cafile=ours.ca)
        with pytest.raises(OSError):  # noqa: PT011 - the library says it in several ways
            get(url, stranger)
        with pytest.raises(OSError):  # noqa: PT011 - in clear
            get(url.replace("https", "http"))
        assert _served_as(it.port, ours) == "router"
        put("llm")
        assert _served_as(it.port, ours) == "llm"
        (tmp_path / "served.pem").write_text("half a file")
        assert _served_as(it.port, ours) == "llm", "the last good ones stay"


def _served_as(port: int, ours: Authority) -> str:
    context = tls_context(ours.asking_as("prometheus"))
    raw = socket.create_connection(("localhost", port))
    with context.wrap_socket(raw, server_hostname="localhost") as secured:
        found: Any = secured.getpeercert()
    (((_, name),),) = found["subject"]
    return str(name)


def test_the_end_of_a_certificate_is_the_one_that_openssl_says(ours: Authority, tmp_path: Path) -> None:
    files = [ours.ca, *(ours.file(f"{name}.pem") for name in ("router", "client", "expired"))]
    far = str(tmp_path / "far.pem")  # beyond 2049 dates have four digits of the year
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(tmp_path / "k"), "-out", far]
    subprocess.run([*made, "-days", "30000", "-subj", "/CN=far"], check=True, capture_output=True)
    ends = {}
    for file in [*files, far]:
        told = subprocess.run(["openssl", "x509", "-in", file, "-noout", "-enddate"], check=True, capture_output=True)
        ends[file] = ssl.cert_time_to_seconds(told.stdout.decode().strip().removeprefix("notAfter="))
        assert not_after(Path(file).read_text()) == ends[file]
    assert ends[far] > 2_600_000_000
    chain = Path(far).read_text() + Path(ours.ca).read_text()
    assert not_after(chain) == ends[ours.ca], "a chain holds as long as the first that ends"
    with pytest.raises(ValueError, match="empty"):
        not_after("no certificate")
