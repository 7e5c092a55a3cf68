"""The benchmark of routers asks real ones, of this checkout and another, and its toys write what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evals.bench.__main__ import main
from evals.bench.held import can_hold
from evals.figures.provenance import ROOT

pytestmark = pytest.mark.slow


def test_routers_take_turns_on_workers_that_cost_nothing(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    # fmt: off
    asked = ["--before", str(ROOT), "--streams", "4", "--step-ms", "2", "--per-reply", "3", "--rounds", "2",
             "--seconds", "0.5", "--warm", "2", "--max-new-tokens", "120", "--json", str(file)]
    # fmt: on
    assert main(["routers", *asked]) == 0
    found = json.loads(file.read_text())
    rows = {row["system"]: row for row in found["rows"]}
    assert list(rows) == ["one router", "two routers", "before"]
    for row in rows.values():
        assert row["tokens_per_s"] > 0 < row["router_us"]
        assert 1 <= row["per_chunk"] <= row["per_switch"], "a chunk has no switch in it"
        assert 4 < row["per_switch"] < 40, "some twenty tokens of the SLM, then a few of the LLM"
    assert rows["one router"]["cpu"]["value"] > 0 < rows["two routers"]["rate"]["value"]
    assert len(found["turns"]) == 2 * len(rows)


def test_a_folder_without_a_router_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["routers", "--before", str(tmp_path), "--rounds", "1"]) == 1
    assert "is no checkout of rstitch" in capsys.readouterr().err


@pytest.mark.skipif(not can_hold(), reason="this user may make no control groups")
def test_routers_that_are_held_take_no_more(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    # fmt: off
    asked = ["--cores", "0.2", "--streams", "8", "--step-ms", "0", "--per-reply", "1", "--rounds", "1",
             "--seconds", "1", "--warm", "2", "--no-two", "--json", str(file)]
    # fmt: on
    assert main(["routers", *asked]) == 0
    (turn,) = json.loads(file.read_text())["turns"]
    assert 0 < turn["routers_s"] < 0.3 * turn["seconds"]
