"""`python -m training.head.studies.bench`: both ways write the same answers, and the figures add up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.head.studies.bench import main

pytestmark = pytest.mark.soak


def test_rollouts_through_the_stack_are_measured_beside_those_in_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bench.json"
    assert main(["--sessions", "4", "--rounds", "2", "--blocks", "2", "--json", str(file)]) == 0
    assert "the same in both" in capsys.readouterr().out
    found = json.loads(file.read_text())
    assert [row["name"] for row in found["rows"]] == ["in process", "served"]
    assert found["num_answers"] == 16
    assert found["num_consultations"] > 0
    assert found["ratio"]["low"] <= found["ratio"]["value"] <= found["ratio"]["high"]
