"""schemathesis: requests made of a description, good and bad, and every answer held to it.

OpenAI's description is taken as it is, and once more without what we refuse by name, where most good requests are
answered; and our own, which has all routes.
"""

from __future__ import annotations

import json
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from evals.clients.description import CUT, answerable
from evals.clients.outcomes import Outcome
from evals.clients.suites.suite import Place, first, place

_CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,use_after_free"
)


def whole(http: str) -> Outcome:
    """Runs OpenAI's description, cut to our routes."""
    return _held_to("OpenAI's description", place(http, "schemathesis"), json.loads(CUT.read_text()), "/v1")


def answered(http: str) -> Outcome:
    """Runs what of OpenAI's description we answer; passes only if many requests were."""
    made = answerable(json.loads(CUT.read_text()))
    return _held_to("OpenAI's, of what we take", place(http, "schemathesis"), made, "/v1", num_answered=50)


def own(http: str) -> Outcome:
    """Holds every answer to the description that the gateway gives of itself."""
    with urllib.request.urlopen(f"{http}/openapi.json") as response:
        return _held_to("our own description", place(http, "schemathesis"), json.load(response), "")


def _held_to(name: str, at: Place, description: dict[str, Any], root: str, num_answered: int = 0) -> Outcome:
    path, told = at.folder / "description.json", at.folder / "told.ndjson"
    path.write_text(json.dumps(description))
    ran = at.run(
        [
            "schemathesis", "run", str(path), "--url", at.http + root, "--checks", _CHECKS, "--seed", "1",
            "--phases", "coverage,fuzzing,stateful", "--max-examples", "10", "--suppress-health-check", "all",
            "--request-timeout", "60", "--report", "ndjson", "--report-ndjson-path", str(told), "--no-color",
        ]
    )  # fmt: skip
    statuses = _statuses(told) if ran.code is not None else Counter()
    num = sum(of for (method, status), of in statuses.items() if method == "POST" and status == 200)
    cases = first(r"(\d+) generated", ran.output, "no")
    failures = first(r"(\d+) unique failures", ran.output, "0")
    note = f"{cases} cases, {num} completions, {failures} failures"
    return at.outcome(name, "schemathesis", ran, passed=ran.code == 0 and num >= num_answered, note=note)


def _statuses(path: Path) -> Counter[tuple[str, int | None]]:
    """Counts requests by method and status, from what schemathesis reports."""
    found: Counter[tuple[str, int | None]] = Counter()
    for line in path.read_text().splitlines():
        scenario = json.loads(line).get("ScenarioFinished")
        for each in scenario["recorder"].get("interactions", {}).values() if scenario else ():
            found[each["request"]["method"], (each.get("response") or {}).get("status_code")] += 1
    return found
