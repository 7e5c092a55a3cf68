"""Questions of any kind to train heads with: the split is the question's own, and what cannot be right is refused."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from evals.tasks.data import load_data, written
from evals.tasks.task import load
from rstitch.errors import RstitchError
from training.head.questions import Questions, load_questions, solution_of
from training.head.split import Split


def file_of(folder: Path, rows: list[dict[str, Any]], name: str = "questions.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def rows_of(n: int) -> list[dict[str, Any]]:
    return [{"question": f"What is {number} and {number}?", "answer": str(2 * number)} for number in range(n)]


def sides(questions: Questions) -> dict[str, str]:
    return {
        problem.row["question"]: side
        for side in ("train", "dev", "test")
        for problem in getattr(questions, side)
    }  # fmt: skip


def test_a_question_stays_on_its_side_when_the_file_grows_or_is_shuffled(tmp_path: Path) -> None:
    rows = rows_of(300)
    few = load_questions(data=file_of(tmp_path, rows[:150]), check="exact")
    assert {len(few.train) > 80, len(few.dev) > 4, len(few.test) > 15} == {True}
    random.Random(1).shuffle(rows)
    many = load_questions(data=file_of(tmp_path, rows), check="exact")
    assert sides(few).items() <= sides(many).items()
    same = load_questions(data=file_of(tmp_path, sorted(rows, key=str)), check="exact")
    assert (same.digest, same.train) == (many.digest, [*same.train])
    assert [problem.prompt for problem in same.train] == [problem.prompt for problem in many.train]
    assert few.digest != many.digest


def test_numbers_of_questions_are_a_limit_of_shares(tmp_path: Path) -> None:
    path = file_of(tmp_path, rows_of(400))
    shares = load_questions(data=path, check="exact", split="50/25/25")
    numbers = load_questions(data=path, check="exact", split="20/10/10")
    assert [len(getattr(numbers, side)) for side in ("train", "dev", "test")] == [20, 10, 10]
    assert sides(numbers).items() <= sides(shares).items()


@pytest.mark.parametrize("text", ["", "70/30", "a/b/c", "0/50/50", "70/-10/40", "70/10/nan", "0.5/7/2"])
def test_a_split_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(RstitchError, match=r"--split.*70/10/20"):
        Split.parse(text)


def test_a_repeated_question_counts_once_and_never_on_two_sides(tmp_path: Path) -> None:
    rows = rows_of(60)
    again = [{"question": f"  {row['question'].replace(' ', '  ')}", "answer": row["answer"]} for row in rows[:20]]
    made = load_questions(data=file_of(tmp_path, [*rows, *again]), check="exact", split="40/40/20")
    assert made.origin.num_repeated == 20
    assert len({*sides(made)}) == len(made.train) + len(made.dev) + len(made.test) == 60
    rows.append({"question": rows[0]["question"], "answer": "7"})
    with pytest.raises(RstitchError, match=r"problems 0 and 60 are one question with two answers, '0' and '7'"):
        load_questions(data=file_of(tmp_path, rows), check="exact")


def test_generated_questions_have_splits_and_solutions_of_their_own() -> None:
    made = load_questions("tiny", split="30/12/5", seed=3)
    assert [problem.source for problem in made.train] == [
        problem.source for problem in written(load("tiny"), "train", 30, 3)
    ]
    assert made.dev == written(load("tiny"), "dev", 12, 0)
    assert made.test == []
    programs = load_questions("programs", split="5/5/0")
    for questions in (made, programs):
        for problem in questions.train:
            solution = solution_of(problem)
            assert solution is not None
            assert solution.startswith("<think>\n")
            assert f"\\boxed{{{problem.reference}}}" in solution
        assert solution_of(questions.dev[0]) is None


def test_what_was_left_alone_can_be_asked_later(tmp_path: Path) -> None:
    rows = [{**row, "solution": "so it is"} for row in rows_of(60)]
    made = load_questions(data=file_of(tmp_path, rows), check="boxed", split="40/40/20", prompt="{question} Box it.")
    assert solution_of(made.train[0]) == "so it is"
    assert made.train[0].prompt.endswith("? Box it.")
    assert made.save_test(tmp_path / "work" / "test.jsonl")
    again = load_data(made.task, tmp_path / "work" / "test.jsonl")
    assert [problem.prompt for problem in again.problems] == [problem.prompt for problem in made.test]
    assert not load_questions("tiny", split="5/5/5").save_test(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("rows", "arguments", "message"),
    [
        ([{"question": "a"}], {}, r"--data: .*questions.jsonl, line 1: there is no column answer, only question"),
        ([{"text": "a", "answer": 1}], {}, r"line 1: there is no column question, only text, answer\. Rename it"),
        ([{"question": " ", "answer": 1}], {}, r"line 1: the question is empty"),
        ([{"question": "a", "answer": ""}], {}, r"line 1: the answer is empty"),
        ([{"question": "a", "answer": "1"}], {"check": "code"}, r"'code'\. What runs code is Inspect"),
        ([{"question": "a", "answer": "1"}], {"check": "magic"}, r"--check: there is no check 'magic'\. Choose"),
        ([{"question": "a", "answer": "1"}], {"check": "python:no.such"}, r"--check: python:no.such: No module"),
        ([{"question": "a", "answer": "1"}], {"task": "gsm8k"}, r"--check: the task gsm8k has a check of its own"),
        ([{"question": "a", "answer": "1"}], {"check": None}, r"--task: neither a task nor a file and its check"),
        ([{"question": "a", "answer": "1"}], {"task": "tiny", "check": None}, r"--data: tiny writes its own problems"),
        ([{"question": "a", "answer": "1"}], {"prompt": "{q}"}, r"\{q\} stands in a template and is no column"),
        ([{"question": "a", "answer": "1"}], {}, r"questions.jsonl leaves . questions for train.*Give at least 4"),
        ([{"question": "a", "answer": "1"}], {"split": "1/2"}, r"--split: '1/2' is not three numbers"),
    ],
)  # fmt: skip
def test_what_cannot_be_right_is_refused(
    tmp_path: Path, rows: list[dict[str, Any]], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(RstitchError, match=message):
        load_questions(**{"data": file_of(tmp_path, rows), "check": "exact"} | arguments)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RstitchError, match=r"none\.jsonl: No such file or directory\. Give a \.jsonl"):
        load_questions(data=tmp_path / "none.jsonl", check="exact")
    (tmp_path / "bad.jsonl").write_text('{"question": "a", "answer": "1"}\n{"question"')
    with pytest.raises(RstitchError, match=r"bad\.jsonl, line 2: it is no JSON"):
        load_questions(data=tmp_path / "bad.jsonl", check="exact")


def test_a_task_without_splits_to_train_with_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'title = "mine"\nmax_new_tokens = 9\n[generator]\n'
        'problems = "evals.tasks.tiny.arithmetic:problems"\ncheck = "evals.tasks.tiny.arithmetic:is_correct"\n'
    )
    with pytest.raises(RstitchError, match=r"mine names no splits to train with\. Set generator\.train"):
        load_questions(str(path))
    path.write_text(path.read_text() + 'train = "dev"\ndev = "dev"\n')
    with pytest.raises(RstitchError, match=r"the splits dev and dev share"):
        load_questions(str(path), split="5/5/0", seed=0)
