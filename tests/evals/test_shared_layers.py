"""`python -m evals.shared_layers` on the bundled models: two stacks, one problem, every figure of its page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evals.shared_layers.__main__ import main

pytestmark = [pytest.mark.soak, pytest.mark.timeout(240)]


def test_all_that_the_page_shows_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["--n", "1", "--split", "dev", "--rounds", "1", "--no-write", "--json", str(tmp_path / "found.json")]) == 0
    )
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["memory"]) == {"SLM", "LLM", "shared"}
    assert all(bytes_ > 0 for figures in found["memory"].values() for bytes_ in figures.values())
    assert all(microseconds > 0 for microseconds in found["step_us"].values())
    pair, shared = found["answers"][:3], found["answers"][3:]
    assert [row["system"].partition(": ")[0] for row in pair + shared] == ["pair"] * 3 + ["shared"] * 3
    assert all(row["n"] == 1 and row["tokens"] > 0 for row in pair + shared)
    assert all(row["latency_ratio"][0] > 0 for row in shared)
    told = capsys.readouterr().out
    assert "switch over 128 tokens" in told
    assert "written: docs" not in told
