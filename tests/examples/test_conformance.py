"""Public suites pass before the gateway (soak), and OpenAI's description is cut to what we have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from evals.clients.conformance import SUITES, run_suite, stack_of_suites
from evals.clients.description import CUT, answerable, cut
from evals.clients.outcomes import State
from rstitch.local.stack import LocalStack

DOCUMENT = Path(__file__).parents[2] / "docs" / "http.md"


@pytest.fixture(scope="module")
def stack() -> Iterator[LocalStack]:
    with stack_of_suites() as running:
        yield running


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", SUITES)
def test_a_suite_passes(stack: LocalStack, name: str) -> None:
    outcomes = run_suite(name, f"http://{stack.gateway.address}")
    assert [each.state for each in outcomes] == [State.PASSED] * len(SUITES[name]), outcomes


def references(part: Any) -> Iterator[str]:
    for each in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from references(each)
    if isinstance(part, dict) and isinstance(part.get("$ref"), str):
        yield part["$ref"]


@pytest.mark.parametrize("narrow", [dict, answerable], ids=["whole", "answerable"])
def test_a_cut_refers_to_nothing_that_it_left_out(narrow: Any) -> None:
    description = narrow(json.loads(CUT.read_text()))
    found = list(references(description))
    assert len(found) > 20
    for reference in found:
        _, *steps = reference.split("/")
        part = description
        for step in steps:
            part = part[step]


def test_what_is_cut_is_cut_to_the_same_again() -> None:
    described = json.loads(CUT.read_text())
    assert json.loads(json.dumps(cut(described))) == described


def test_routes_of_the_cut_are_routes_of_ours(http: httpx2.Client) -> None:
    ours = http.get("/openapi.json").json()["paths"]
    for path, methods in json.loads(CUT.read_text())["paths"].items():
        named = re.sub(r"\{\w+\}", "{}", f"/v1{path}")
        found = {method for own, told in ours.items() if re.sub(r"\{[^}]+\}", "{}", own) == named for method in told}
        assert set(methods) <= found, path


def test_requests_of_what_we_take_name_nothing_that_we_refuse() -> None:
    schemas = answerable(json.loads(CUT.read_text()))["components"]["schemas"]
    asked = schemas["CreateChatCompletionRequest"]
    named = {name for part in [asked, *asked["allOf"]] for name in part.get("properties", ())}
    assert {"messages", "model", "max_completion_tokens", "seed"} <= named
    assert not {"tools", "functions", "audio", "response_format"} & named


def test_the_document_names_every_suite() -> None:
    text = DOCUMENT.read_text()
    for name in ("OpenAI's own tests", "schemathesis", "aiperf", "lm_eval", "Inspect"):
        assert re.search(rf"^\| .*{name}.* \|", text, re.MULTILINE), name
