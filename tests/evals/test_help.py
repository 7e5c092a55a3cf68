"""Every program tells its options, and refuses those that cannot stand beside one another."""

from __future__ import annotations

import importlib

import pytest

from evals.bench.__main__ import COMMANDS as BENCHES
from evals.calibrate.__main__ import main as calibrate
from evals.clients.__main__ import COMMANDS as CLIENTS
from evals.commands import run_program
from evals.evaluation.__main__ import COMMANDS as EVALUATIONS
from evals.plan.__main__ import COMMANDS as PLANS

PROGRAMS = (
    "calibrate.__main__", "gpu.__main__", "gpu.anatomy", "gpu.kernels", "latency.__main__", "pairs.__main__",
    "renumber.__main__", "renumber.compare", "shared_layers.__main__",
    *(f"bench.{name}" for name in BENCHES), *(f"clients.{name}" for name in CLIENTS),
    *(f"evaluation.{name}" for name in EVALUATIONS), *(f"plan.{name}" for name in PLANS),
)  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_tells_the_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(f"evals.{name}")
    assert run_program("program", module.__doc__, module.run, module.Options, ["--help"]) == 0
    told = capsys.readouterr().out
    assert "Usage: program" in told
    assert "--help" in told


def test_one_goal_is_calibrated_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate(["--llm-share", "15%", "--max-loss", "0.0"]) == 2
    assert "--max-loss: it stands beside --llm-share" in capsys.readouterr().err
