"""A stack whose metrics can be scraped, and how a test reads them."""

from __future__ import annotations

import ssl
import urllib.request
from typing import Any

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from rstitch.client import Budget, Client, EarlyExit, Interrupted, InvalidArgument, LlmOnly, Started, Threshold
from rstitch.local.processes import free_port
from rstitch.local.stack import LocalStack, RouterOptions

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
QUESTION = "There are 12 boxes with 7 pens each. How many pens are there?"


class ScrapedStack(LocalStack):
    """What `rstitch up --metrics-port` starts; `metrics` has HOST:PORT by the job of a service."""

    def __init__(self, *router_args: str, **options: Any) -> None:
        super().__init__(router=RouterOptions(args=router_args), **options)
        # Wherever there is room: those of `metrics_port` follow one another. Of several workers the first.
        self._metrics_ports = {name: free_port() for name in ("router", "slm worker", "llm worker")}
        self.metrics = {
            f"rstitch-{name.replace(' ', '-')}": f"localhost:{port}" for name, port in self._metrics_ports.items()
        }

    def scrape(self) -> dict[str, list[Metric]]:
        """Everything that is measured now, by job."""
        context = tls_context(self.lock.client) if self.lock else None
        scheme = "https" if context else "http"
        return {job: parsed(get(f"{scheme}://{address}/metrics", context)[0]) for job, address in self.metrics.items()}


def tls_context(credentials: Any) -> ssl.SSLContext:
    """What a scraper shows and trusts."""
    context = ssl.create_default_context(cafile=credentials.tls_ca)
    if credentials.tls_cert:
        context.load_cert_chain(credentials.tls_cert, credentials.tls_key)
    return context


def get(url: str, context: ssl.SSLContext | None = None, accept: str = OPENMETRICS) -> tuple[str, str]:
    """The body and the content type. Raises what urllib raises."""
    request = urllib.request.Request(url, headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=30, context=context) as reply:
        return reply.read().decode(), reply.headers["Content-Type"]


def parsed(text: str) -> list[Metric]:
    """The families of an OpenMetrics text, which must be one to the letter."""
    return list(text_string_to_metric_families(text))


def samples(families: list[Metric], name: str) -> dict[tuple[tuple[str, str], ...], float]:
    """The values of a name by their labels."""
    return {tuple(sorted(s.labels.items())): s.value for family in families for s in family.samples if s.name == name}


def ask_everything(client: Client, num: int = 10, max_new_tokens: int = 12) -> None:
    """Asks so that whatever a router can count is counted: every way to write, to end and to be refused."""
    for _ in range(num):
        for policy in (Threshold(0.02), LlmOnly()):
            client.answer(QUESTION, policy=policy, max_new_tokens=max_new_tokens, guard=isinstance(policy, Threshold))
    client.answer(QUESTION, policy=Threshold(-1), budget=Budget(llm_tokens=2, stop=True), max_new_tokens=max_new_tokens)
    client.answer(QUESTION, policy=Threshold(-1), budget=Budget(llm_tokens=2), max_new_tokens=max_new_tokens)
    client.answer(QUESTION, policy=Threshold(0.02), early_exit=EarlyExit(0.5), max_new_tokens=max_new_tokens)
    seen = client.answer(QUESTION, policy=Threshold(0.02), max_new_tokens=max_new_tokens)
    for _ in client.observe_answer(session_id=seen.session_id, tau=0.5):
        pass
    with pytest.raises(InvalidArgument):
        client.answer(QUESTION, policy=Threshold(float("nan")))
    _break_off(client)


def _break_off(client: Client) -> None:
    """Begins an answer and cancels it before it is over, which a fast one may be."""
    for _ in range(20):
        answer = client.generate(QUESTION, policy=LlmOnly(), max_new_tokens=1900)
        started = next(answer)
        assert isinstance(started, Started)
        if client.cancel(started.session_id).cancelled:
            with pytest.raises(Interrupted):
                list(answer)
            return
    pytest.fail("each answer was over before it could be cancelled")
