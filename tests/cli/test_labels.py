"""`rstitch trajectory label`: one, and many from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rstitch.v1 import router_pb2 as pb
from tests.cli.conftest import Run
from tests.support.fake_router import FakeRouter


@pytest.fixture
def sessions(run: Run) -> list[str]:
    names = ["one", "three", "two"]
    for name in names:
        run("ask", "What?", "--session", name)
    return names


def written(path: Path, *lines: Any) -> str:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return str(path)


def test_one_is_labelled_listed_and_taken_back(run: Run, router: FakeRouter, sessions: list[str]) -> None:
    for word, label in (("right", pb.LABEL_RIGHT), ("wrong", pb.LABEL_WRONG), ("none", pb.LABEL_UNSPECIFIED)):
        result = run("trajectory", "label", "two", word)
        assert (result.exit_code, result.stdout) == (0, f"labelled two: {word}\n")
        assert router.labels["two"] == label
        shown = run("trajectory", "show", "two").stdout.splitlines()[0]
        assert shown.endswith(f"epoch 1, label {word}" if label else "epoch 1")
        found = run("trajectory", "ls", "--labelled", "--json").stdout.splitlines()
        assert [(t["session_id"], t["label"]) for t in map(json.loads, found)] == [("two", word)] * bool(label)
    assert "no trajectory has a label yet" in run("trajectory", "ls", "--labelled").stdout
    assert len(run("trajectory", "ls", "--json").stdout.splitlines()) == 3


def test_a_file_labels_many(run: Run, router: FakeRouter, sessions: list[str], tmp_path: Path) -> None:
    path = written(
        tmp_path / "labels.jsonl",
        {"session_id": "one", "label": "right"},
        "",
        {"session_id": "two", "label": "wrong", "note": "kept by whoever wrote it"},
        {"session_id": "three", "label": "none"},
        {"session_id": "one", "label": "right"},
    )
    result = run("trajectory", "label", "--file", path)
    assert (result.exit_code, result.stdout) == (0, "labelled 4 of 4\n")
    assert router.labels == {"one": pb.LABEL_RIGHT, "two": pb.LABEL_WRONG, "three": pb.LABEL_UNSPECIFIED}


def test_what_the_router_refuses_is_listed_and_the_rest_done(
    run: Run, router: FakeRouter, sessions: list[str], tmp_path: Path
) -> None:
    names = ["one", "nobody", "two", "no one"]
    path = written(tmp_path / "labels.jsonl", *({"session_id": name, "label": "right"} for name in names))
    result = run("trajectory", "label", "--file", path)
    assert (result.exit_code, result.stdout) == (1, "labelled 2 of 4\n")
    assert [line.partition(": ")[0] for line in result.stderr.splitlines()] == [f"{path}:2", f"{path}:4"]
    assert "there is no session nobody" in result.stderr
    assert router.labels.keys() == {"one", "two"}


def test_a_lost_router_ends_it_and_says_how_far_it_came(
    run: Run, router: FakeRouter, sessions: list[str], tmp_path: Path
) -> None:
    names = ["one", "lost", "two"]
    path = written(tmp_path / "labels.jsonl", *({"session_id": name, "label": "right"} for name in names))
    result = run("trajectory", "label", "--file", path)
    assert result.exit_code == 1
    assert "labelled 1 of 3" in result.stderr
    assert router.labels.keys() == {"one"}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "it is no JSON"),
        ("[1]", "it is no object"),
        ({"label": "right"}, "session_id: there is none"),
        ({"session_id": "one"}, "label: there is none"),
        ({"session_id": 7, "label": "right"}, "session_id: 7 is no session id"),
        ({"session_id": "one", "label": "maybe"}, "label: 'maybe' is no label. Write right, wrong"),
        ({"session_id": "one", "label": True}, "label: True is no label"),
        ({"session_id": "two", "label": "wrong"}, "session two has another label in line 1"),
    ],
)
def test_a_line_at_fault_is_named_before_anything_is_sent(
    run: Run, router: FakeRouter, sessions: list[str], tmp_path: Path, line: Any, says: str
) -> None:
    path = written(tmp_path / "labels.jsonl", {"session_id": "two", "label": "right"}, line)
    result = run("trajectory", "label", "--file", path)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"{path}:2: {says}")
    assert "nothing was sent" in result.stderr
    assert router.labels == {}


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["two", "maybe"], "label: 'maybe' is no label. Write right, wrong, or none"),
        (["two"], "a session and its label are needed"),
        ([], "a session and its label are needed"),
        (["nobody", "right"], "there is no session nobody"),
        (["two", "right", "--file", "x"], "Give a session and its label, or --file."),
        (["--file", "/dev/null/none"], "cannot be read"),
        (["--file", "/dev/null"], "there is no label in /dev/null"),
    ],
)
def test_bad_input_is_one_line_and_code_2(run: Run, args: list[str], says: str) -> None:
    result = run("trajectory", "label", *args)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert says in line
