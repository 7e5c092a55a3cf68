"""Task files and the problems behind them: what is read, and what is refused by name."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evals.tasks import task as tasks
from evals.tasks.data import last_boxed, load_data
from evals.tasks.task import load, names
from evals.tasks.tiny.arithmetic import problems
from rstitch.errors import RstitchError

LOCAL = """
title = "local"
check = "math"
max_new_tokens = 10
[columns]
question = ["problem", "question"]
answer = ["answer"]
"""


def task_file(folder: Path, text: str = LOCAL) -> str:
    path = folder / "local.toml"
    path.write_text(text)
    return str(path)


def rows_file(folder: Path, *rows: object, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.mark.parametrize("name", names())
def test_each_task_is_complete(name: str) -> None:
    task = load(name)
    assert task.hub or task.generator
    assert "{question}" in task.prompt


def test_the_tiny_task_is_the_generator_of_the_tiny_pair() -> None:
    made = problems("dev", 3, 1)
    data = load_data(load("tiny"), split="dev", seed=1, n=3)
    assert [problem.source for problem in data.problems] == made
    assert data.problems[0].prompt == made[0].question
    assert load_data(load("tiny"), split="dev", seed=1, n=30).digest == data.digest
    assert load_data(load("tiny"), n=3).digest != data.digest


def test_the_formats_of_the_known_sets(tmp_path: Path) -> None:
    def only(name: str, row: dict[str, Any]) -> Any:
        return load_data(load(name), rows_file(tmp_path, row)).problems[0]

    gsm8k = only("gsm8k", {"question": "How many?", "answer": "9 * 2 = <<9*2=18>>18\n#### 1,018"})
    assert gsm8k.reference == "1,018"
    assert gsm8k.prompt == "How many?\n\nReason step by step, and put the final answer within \\boxed{}."
    minerva = only(
        "minerva", {"problem": "E?", "solution": "so \\boxed{3} no, \\[ E = \\boxed{\\frac{1}{2}} \\]", "idx": 0}
    )
    assert minerva.reference == "\\frac{1}{2}"
    assert only("olympiadbench", {"question": "n?", "final_answer": ["$2n$", "3"]}).reference == "$2n$, 3"


def test_a_list_in_a_json_file_is_the_same_as_lines(tmp_path: Path) -> None:
    rows = [{"problem": "a", "answer": 1}, {"problem": "b", "answer": 2.0}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    task = load(task_file(tmp_path))
    listed, lines = load_data(task, tmp_path / "rows.json"), load_data(task, rows_file(tmp_path, *rows))
    assert listed.problems == lines.problems
    assert listed.digest == lines.digest
    assert [problem.reference for problem in lines.problems] == ["1", "2.0"]
    assert len(load_data(task, tmp_path / "rows.json", n=1).problems) == 1


def test_the_hub_is_asked_for_what_the_file_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*args: object, **kwargs: object) -> list[dict[str, str]]:
        asked.append((args, kwargs))
        return [{"question": "How?", "answer": "#### 7"}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert load_data(load("gsm8k")).problems[0].reference == "7"
    assert asked == [(("openai/gsm8k", "main"), {"split": "test", "revision": None})]


def test_without_a_hub_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(RstitchError, match=r"rstitch\[hub\].*--data FILE"):
        load_data(load("gsm8k"))

    def refuse(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=refuse))
    with pytest.raises(RstitchError, match=r"openai/gsm8k could not be had: no route to the hub\. .*--data FILE"):
        load_data(load("gsm8k"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title = [", "it is no TOML: Invalid value"),
        (LOCAL.replace('check = "math"', 'check = "luck"'), "there is no check 'luck'. Choose"),
        (LOCAL.replace('check = "math"', ""), "a generator brings its own check"),
        (LOCAL.replace('check = "math"', 'check = "code"'), "there is no check 'code'. What runs code is Inspect"),
        (LOCAL + '[generator]\nproblems = "nothing"\ncheck = "a:b"', "generator.problems"),
        (LOCAL.replace("max_new_tokens = 10", "max_new_tokens = 0"), "max_new_tokens"),
        (LOCAL.replace('title = "local"', 'title = "x"\ncolour = "red"'), "colour: Extra inputs"),
        (LOCAL.replace('answer = ["answer"]', ""), "columns.answer is missing"),
        (LOCAL.replace("max_new_tokens", 'reference = "("\nmax_new_tokens'), "reference is no regular expression"),
        (LOCAL.replace("max_new_tokens", 'reference = "x"\nmax_new_tokens'), "reference needs a group"),
    ],
)
def test_a_malformed_task_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(RstitchError, match=said) as refused:
        load(task_file(tmp_path, text))
    assert "local.toml" in str(refused.value)
    assert "docs/evaluation.md" in str(refused.value)


def test_an_unknown_task_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(RstitchError, match=r"no task 'gsm9k'.*gsm8k"):
        load("gsm9k")
    with pytest.raises(RstitchError, match=r"nowhere\.toml: No such file"):
        load(str(tmp_path / "nowhere.toml"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no problem"),
        ('{"problem": "a", "answer": "1"}\n\n{"problem": ', "rows.jsonl, line 3: it is no JSON"),
        ("[1]", "line 1: list is no object"),
        ('{"text": "a", "answer": "1"}', "line 1: there is no column problem or question, only text, answer"),
        ('{"problem": "a", "answer": null}', "line 1: there is no column answer"),
    ],
)
def test_unreadable_data_is_refused_with_its_line(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(RstitchError, match=said):
        load_data(load(task_file(tmp_path)), tmp_path / "rows.jsonl")


def test_data_that_is_not_the_tasks_is_refused(tmp_path: Path) -> None:
    task = load(task_file(tmp_path))
    for name, content in (("none.jsonl", None), ("binary.jsonl", b"\xff\xfe"), ("object.json", b"{}")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(RstitchError, match=name):
            load_data(task, tmp_path / name)
    with pytest.raises(RstitchError, match="like ####"):
        load_data(load("gsm8k"), rows_file(tmp_path, {"question": "a", "answer": "7"}))
    with pytest.raises(RstitchError, match="no dataset of its own"):
        load_data(task)
    with pytest.raises(RstitchError, match="'train' is none of tiny"):
        load_data(load("tiny"), split="train")
    with pytest.raises(RstitchError, match="Leave it out"):
        load_data(load("tiny"), tmp_path / "rows.jsonl")
    hinted = load(task_file(tmp_path, LOCAL.replace("max_new_tokens", 'prompt = "{question} {hint}"\nmax_new_tokens')))
    with pytest.raises(RstitchError, match=r"\{hint\} stands in a template"):
        load_data(hinted, rows_file(tmp_path, {"problem": "a", "answer": 1}))


def test_boxed_answers_nest() -> None:
    assert last_boxed("\\boxed{1} then \\boxed{\\frac{1}{2}}.") == "\\frac{1}{2}"
    assert last_boxed("\\boxed{1") is None
    assert last_boxed("none") is None


def test_the_files_are_shipped() -> None:
    assert tasks.FOLDER.name == "tasks"
    assert "*.toml" in (Path(__file__).parents[2] / "pyproject.toml").read_text()
