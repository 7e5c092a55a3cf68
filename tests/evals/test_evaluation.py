"""`rstitch eval run` on a real stack and how it is gone on with; the order of asking; what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from evals.asking.ask import jobs
from evals.asking.run_file import RunFile, read
from evals.asking.systems import Served, Terms, named_specs
from evals.evaluation.__main__ import main
from evals.tasks.data import Problem
from evals.tasks.task import names
from rstitch.client.sync import Client
from rstitch.client.types import Random
from rstitch.errors import RstitchError
from rstitch.local.stack import LocalStack
from tests.support.runs import CONFIGURATION, PROVENANCE

pytestmark = pytest.mark.timeout(180)


class TestOnARealStack:
    """One run of two systems, gone on with, reported, drawn."""

    def run(self, tiny_stack: LocalStack, folder: Path, *flags: str) -> int:
        # fmt: off
        return main(["run", "--task", "tiny", "--router", tiny_stack.router_address, "--out", str(folder / "run.jsonl"),
                     "--systems", "llm_only", "threshold:tau=0.02", *flags])
        # fmt: on

    def test_a_run_is_one_line_per_answer_and_goes_on(
        self, tiny_stack: LocalStack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "run.jsonl"
        assert self.run(tiny_stack, tmp_path, "--n", "2", "--concurrency", "2") == 0
        first = path.read_text()
        found = read([path])
        assert {each.key for each in found.records} == {(s, p, 0) for s in found.systems for p in range(2)}
        for each in found.records:
            assert (
                sum(part.num_tokens for part in each.parts)
                == len(each.tokens)
                == len(each.entropies)
                == each.num_tokens
            )
            with Client(tiny_stack.router_address) as client:
                trajectory = client.trajectory(each.session_id)
            assert trajectory.tokens[each.count("prompt_tokens") :] == each.tokens
            kinds = [(s.source.value, len(s.tokens)) for s in trajectory.segments if s.source.value != "prompt"]
            assert kinds == [(part.model, part.num_tokens) for part in each.parts]
        path.write_text(first + '{"system": "llm_on')  # it was killed while writing
        assert self.run(tiny_stack, tmp_path, "--n", "4", "--concurrency", "2") == 0
        assert "4 of 8 answers are there already" in capsys.readouterr().out
        again = path.read_text()
        assert again.startswith(first)
        assert len(again.splitlines()) == len(first.splitlines()) + 1 + 2 + 4
        assert len(read([path]).records) == 8
        assert self.run(tiny_stack, tmp_path, "--n", "4", "--concurrency", "2") == 0
        assert len(read([path]).records) == 8

    def test_a_file_of_another_configuration_is_refused_by_name(
        self, tiny_stack: LocalStack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.run(tiny_stack, tmp_path, "--n", "1", "--max-new-tokens", "4", "--json") == 0
        rows = json.loads(capsys.readouterr().out)["rows"]
        assert [(row["system"], row["n"], row["cut_off"]) for row in rows] == [
            ("llm_only", 1, 1),
            ("threshold:tau=0.02", 1, 1),
        ]
        assert self.run(tiny_stack, tmp_path, "--n", "1", "--max-new-tokens", "5") == 2
        assert "run with max_new_tokens 4, not 5" in capsys.readouterr().err

    def test_samples_have_seeds_and_a_system_that_is_refused_has_a_name(
        self, tiny_stack: LocalStack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        flags = ("--n", "1", "--samples", "2", "--temperature", "1", "--seed", "7", "--max-new-tokens", "12")
        assert self.run(tiny_stack, tmp_path, *flags) == 0
        llm = read([tmp_path / "run.jsonl"]).of("llm_only")
        assert [(each.sample, each.seed) for each in llm] == [(0, 7), (1, 8)]
        assert self.run(tiny_stack, tmp_path, *flags, "--systems", "threshold:tau=7") == 2
        assert "threshold:tau=7:" in capsys.readouterr().err


def test_every_system_is_first_as_often_as_last() -> None:
    specs = named_specs(["llm_only", "slm_only", "threshold:tau=0.1"])
    systems = [Served(name, None, spec, Terms(1)) for name, spec in specs.items()]  # type: ignore[arg-type]
    problems = [Problem(index, str(index), "", "", {}) for index in range(3)]
    order = [(job.problem.index, job.system.name) for job in jobs(systems, problems)]
    assert [name for _, name in order[::3]] == ["llm_only", "slm_only", "threshold:tau=0.1"]
    assert [index for index, _ in order] == [0] * 3 + [1] * 3 + [2] * 3
    blocks = [job.system.name for job in jobs(systems, problems, order="blocks")]
    assert blocks == ["llm_only"] * 3 + ["slm_only"] * 3 + ["threshold:tau=0.1"] * 3


def test_systems_are_specs_once_each() -> None:
    specs = named_specs(["random:slm_probability=0.90", "random:slm_probability=0.9", "profile:fast"])
    assert list(specs) == ["random:slm_probability=0.9", "profile:name=fast"]
    assert next(iter(specs.values())).policy == Random(0.9)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["run", "--task", "gsm9k"], "there is no task 'gsm9k'"),
        (["run", "--task", "tiny", "--systems", "oracle"], "there is no policy 'oracle'"),
        (["run", "--task", "tiny", "--systems", "threshold:tua=1"], "tua=1"),
        (["run", "--task", "tiny", "--samples", "0"], "Invalid value for '--samples'"),
        (["run", "--task", "tiny", "--concurrency", "0"], "Invalid value for '--concurrency'"),
        (["run", "--task", "tiny", "--n", "0"], "Invalid value for '--n'"),
        (["run", "--task", "tiny", "--samples", "2"], "--samples: greedy answers are all the same"),
        (["run", "--task", "tiny", "--temperature", "-1"], "out of range"),
        (["run", "--task", "gsm8k", "--recommended", "--temperature", "1"], "--recommended"),
        (["run", "--task", "gsm8k", "--data", "/nowhere.jsonl"], "/nowhere.jsonl: No such file"),
        (["run", "--order", "random"], "Invalid value for '--order'"),
        (["run", "--systmes", "llm_only"], "No such option: --systmes"),
        (["sprint"], "No such command 'sprint'"),
        (["report"], "Missing argument 'FILE'"),
        (["report", "/nowhere.jsonl"], "No such file"),
        (["report", __file__], "line 1: this is no run of an evaluation"),
        (["plot", "/nowhere.jsonl", "--out", "/tmp"], "No such file"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags) == 2
    assert said in re.sub(r"\s+", " ", capsys.readouterr().err)


def test_a_file_being_written_is_not_written_by_another(tmp_path: Path) -> None:
    with (
        RunFile(tmp_path / "run.jsonl", CONFIGURATION, PROVENANCE),
        pytest.raises(RstitchError, match="being written by another run"),
    ):
        RunFile(tmp_path / "run.jsonl", CONFIGURATION, PROVENANCE)


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_the_tasks_are_listed_at_any_width(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert {"gsm8k", "tiny", "programs"} <= set(shown.splitlines())
    assert len(shown.splitlines()) < 8 * len(names())
    assert all(len(line) <= int(columns) for line in shown.splitlines())


def test_the_tasks_are_listed_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    assert {task["name"] for task in json.loads(capsys.readouterr().out)} >= {"tiny", "aime25", "programs"}
