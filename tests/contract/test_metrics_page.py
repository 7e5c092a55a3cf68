"""docs/metrics.md lists what is measured, all of it and as it is: names, units, types, labels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.metrics_core import Metric

from gateway.figures import Figures
from model_worker.metrics import WorkerMetrics
from router_svc.main import Router
from router_svc.observers.observer import Observers
from router_svc.settings import RouterSettings
from rstitch.service import semconv
from rstitch.service.expiry import measure_expiry
from rstitch.service.exposition import name_of
from rstitch.service.metrics import Metrics, setup_metrics
from rstitch.service.refused_calls import RefusedCalls
from rstitch.service.telemetry import setup_telemetry
from tests.support.engines import make_engine

PAGE = Path(__file__).parents[2] / "docs/metrics.md"
KINDS = {"counter": "sum", "gauge": "gauge", "histogram": "histogram"}


@dataclass(frozen=True)
class Row:
    unit: str
    kind: str
    labels: frozenset[str]


def rows() -> dict[str, Row]:
    cells = re.findall(r"^\| `([\w.]+)` \| `([^`]+)` \| (\w+) \| ([^|]*) \| [^|]+ \|$", PAGE.read_text(), re.MULTILINE)
    return {name: Row(unit, kind, frozenset(re.findall(r"`([\w.]+)`", labels))) for name, unit, kind, labels in cells}


class Noting(Metrics):
    """Takes metrics, and notes which instruments are made."""

    def __init__(self) -> None:
        made = setup_metrics("noting", None, scraped=True)
        super().__init__(made._provider)
        self.instruments: dict[str, tuple[str, str]] = {}
        for kind in ("counter", "histogram", "observable_counter", "observable_gauge"):
            self._note(kind)

    def _note(self, kind: str) -> None:
        create = getattr(self.meter, f"create_{kind}")

        def noted(name: str, *args: Any, **kwargs: Any) -> Any:
            instrument = create(name, *args, **kwargs)
            self.instruments[name] = (instrument.unit, KINDS[kind.removeprefix("observable_")])
            return instrument

        setattr(self.meter, f"create_{kind}", noted)

    def histogram_of(self, name: str, unit: str, *args: Any) -> None:
        self.instruments[name] = (unit, "histogram")


async def test_the_page_has_each_instrument_with_its_unit_and_type() -> None:
    noting = Noting()
    router = Router(RouterSettings(), Observers(setup_telemetry("router", None), noting))
    WorkerMetrics(noting, make_engine()[0])
    RefusedCalls(noting)
    measure_expiry(noting, {})
    Figures(noting)
    await router.close()
    assert {name: (row.unit, row.kind) for name, row in rows().items()} == noting.instruments
    declared = {value for name, value in vars(semconv).items() if name.startswith(("METRIC_", "GEN_AI_SERVER_"))}
    assert declared == noting.instruments.keys()


def test_a_running_stack_has_the_labels_that_the_page_says_and_no_others(scraped: list[Metric]) -> None:
    by_name = {name_of(name): row for name, row in rows().items()}
    seen = set()
    for family in scraped:
        name = family.name.removesuffix(f"_{family.unit}") if family.unit else family.name
        if name == "target":
            continue
        seen.add(name)
        assert KINDS[family.type] == by_name[name].kind
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert labels <= {name_of(label) for label in by_name[name].labels}, name
    # Those that a running stack has no reason to count.
    rare = {"rstitch.quota_refusals", "rstitch.certificate.expiry", "rstitch.guard.looks", "rstitch.fleet.moves"}
    rare |= {name for name in rows() if name.startswith("http.")}  # the gateway's: tests/gateway
    assert {name_of(name) for name in rows().keys() - rare} <= seen


def test_labels_take_few_values(scraped: list[Metric]) -> None:
    """No session, key, tenant or prompt is one, whatever was asked."""
    assert max(len(family.samples) for family in scraped) < 400
    values = {value for family in scraped for s in family.samples for name, value in s.labels.items() if name != "le"}
    long = {value for value in values if re.search(r"[0-9a-f]{12}", value) or len(value) > 40}
    assert not long
