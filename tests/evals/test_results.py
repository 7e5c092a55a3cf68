"""`make results`: what the script runs exists, and what it writes has its place."""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from rstitch.client.specs import parse, text_of

ROOT = Path(__file__).parents[2]


def run(tmp_path: Path, *parts: str) -> subprocess.CompletedProcess[str]:
    """The script with `echo` in Python's place."""
    environment = os.environ | {"PYTHON": "echo", "RUNS": str(tmp_path), "N": "10", "N_LATENCY": "4"}
    arguments = ["bash", str(ROOT / "runs/results.sh"), *parts]
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def commands(tmp_path: Path) -> list[list[str]]:
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines() if line.startswith("-m ")]


def test_every_command_is_a_module(commands: list[list[str]]) -> None:
    assert len(commands) == 16
    for _, module, *_ in commands:
        assert importlib.util.find_spec(module) is not None, module


def test_every_system_is_a_policy_and_none_comes_twice(commands: list[list[str]]) -> None:
    runs = [command for command in commands if command[2] == "run"]
    assert len(runs) == 5
    for command in runs:
        systems = command[command.index("--systems") + 1 :]
        assert len(set(systems)) == len(systems) >= 5
        assert [text_of(parse(system)) for system in systems] == systems  # rows go by these names


def test_every_section_that_is_written_is_in_the_document(commands: list[list[str]]) -> None:
    written = [command[command.index("--write") + 1] for command in commands if "--write" in command[:-1]]
    places = [place.rpartition(":") for place in written]
    assert [section for _, _, section in places] == [
        "latency", "frontier", "hurt", "harmful", "programs", "heads-tiny", "heads-programs",
    ]  # fmt: skip
    for page, _, section in places:
        assert f"<!-- {section}:begin -->" in (ROOT / page).read_text(), section


def test_parts_are_chosen_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    assert run(tmp_path, "programs").stdout.count("-m evals.evaluation") == 3
    refused = run(tmp_path, "programs", "nothing")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "no part nothing; choose of model latency frontier programs heads" in refused.stderr
