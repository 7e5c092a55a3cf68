"""`make gpu` as far as no GPU is needed: parts with their limits, the page, and what a GPU machine need not have."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import packages_distributions, requires
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from evals.gpu.__main__ import figures, main, run_parts
from evals.gpu.page import goals, page
from evals.gpu.parts import LARGE, SIZES, Part, parts

ROOT = Path(__file__).parents[2]


def part(name: str, code: str, limit_s: int = 30, figures: str = "") -> Part:
    return Part(name, f"does {name}", limit_s, [sys.executable, "-c", code], figures)


def test_a_part_that_fails_or_takes_too_long_leaves_the_others_to_run(tmp_path: Path) -> None:
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(98765)'])"
    planned = [
        part("broken", "raise SystemExit('no such kernel')"),
        part("endless", child, limit_s=1),
        part("well", f"open(r'{tmp_path / 'well.json'}', 'w').write('[1]')", figures="well.json"),
    ]
    ended = run_parts(planned, tmp_path, 60, Console(quiet=True))
    assert [(one.name, one.code) for one in ended] == [("broken", 1), ("endless", None), ("well", 0)]
    assert ended[0].tail == ["no such kernel"]
    assert figures(tmp_path, {"well": "well.json", "broken": "broken.json"}) == {"well": [1]}
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "time.sleep(98765)" not in running
    text = page({"provenance": facts(), "parts": [asdict(one) for one in ended]})
    assert "stopped at its limit" in text
    assert "no such kernel" in text


def test_what_has_no_time_left_is_not_begun(tmp_path: Path) -> None:
    assert run_parts([part("late", "pass")], tmp_path, 0.5, Console(quiet=True)) == []


def test_without_a_device_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cuda:99", "--out", str(tmp_path / "gpu")]) == 2
    said = " ".join(capsys.readouterr().out.split())
    assert "cuda:99: there is no such device here" in said
    assert "--device cpu" in said


def test_figures_are_held_against_what_we_want() -> None:
    replayed = {"sessions": 16, "scaling": 9.0, "more": {"value": 1.3}, "faster": {"value": 1.0}, "system": "replay"}
    outside = {"slm_token_ms": 0.05, "llm_token_ms": 0.2, "switch_ms": 0.6}
    found = {
        "provenance": facts(name="a card"),
        "engine": {"models": [{"model": "qwen2.5-7b", "rows": [{"batch": 1, "floor_share": 0.9}, {"batch": 16}]}]},
        "replay": {"pairs": [{"name": "qwen2.5-1.5b with qwen2.5-7b", "rows": [replayed], "outside": outside}]},
    }
    assert [(goal.row()["found"], goal.row()["met"]) for goal in goals(found)] == [
        (0.9, True),
        (0.05, True),
        (0.2, False),
        (0.6, True),
        (1.3, True),
        (9.0, False),
    ]


@pytest.mark.parametrize("sizes", [SIZES, LARGE])
def test_every_module_and_file_of_a_part_exists(sizes: Any, tmp_path: Path) -> None:
    for planned in parts("cuda:0", sizes, tmp_path):
        module = planned.command[planned.command.index("-m") + 1]
        assert find_spec(module) is not None
        assert all((ROOT / word).exists() for word in planned.command if word.startswith("tests/"))


def test_nothing_is_imported_that_a_gpu_machine_lacks() -> None:
    """What it has is said in deploy/gpu/requirements.txt; whatever else we ask for ourselves is blocked."""
    text = (ROOT / "deploy/gpu/requirements.txt").read_text()
    had = set(re.findall(r"^([a-z][\w.-]*)$", text, re.M)) | set(" ".join(re.findall("present: (.*)", text)).split())
    asked = {match[0].lower() for need in requires("rstitch") or () if (match := re.match(r"[\w.-]+", need))}
    lacking = asked - had - {"rstitch"}
    blocked = [name for name, owners in packages_distributions().items() if {o.lower() for o in owners} & lacking]
    assert "math_verify" in blocked
    done = subprocess.run([sys.executable, "-c", _WITHOUT, *blocked], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


_WITHOUT = """
import sys
from importlib.machinery import PathFinder
# As where they are not installed: whoever only looks whether they are there finds nothing.
class Lacking(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in sys.argv[1:] else PathFinder.find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Lacking
import evals.gpu.__main__, evals.gpu.anatomy, evals.bench.engine, evals.bench.replay
import model_worker.main, slm_worker.__main__, llm_worker.__main__, router_svc.main
import tests.engine.test_cuda, tests.laws.test_stitching, tests.laws.conftest, tests.conftest
"""


def facts(name: str = "") -> dict[str, str]:
    keys = ("memory", "versions", "command", "commit", "day", "machine", "python")
    return dict.fromkeys(keys, "x") | {"name": name}
