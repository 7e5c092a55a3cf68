"""Options of a command are the fields of a dataclass: how they are read, and what is said of those that cannot be."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer

from evals.asking.values import numbers, positives, some_of, with_unit
from evals.commands import run_command, run_program
from evals.options import many
from rstitch.errors import invalid
from rstitch.local.part import StackError
from tests.support.options import parsed


@dataclass(frozen=True, kw_only=True)
class Loads:
    """Options that several commands have."""

    concurrency: Annotated[Sequence[int], typer.Option(parser=positives, metavar="N,...")] = (1, 4)
    threads: Annotated[int, typer.Option(min=1)] = 2


@dataclass(frozen=True, kw_only=True)
class Chosen(Loads):
    """Those of one, with a default of its own."""

    files: Annotated[list[Path], typer.Argument(metavar="FILE")]
    threads: Annotated[int, typer.Option(min=1)] = 1
    systems: Annotated[list[str], typer.Option(metavar="POLICY...")] = many("llm_only", "slm_only")
    router_arg: Annotated[list[str], typer.Option(metavar="FLAG")] = many()
    order: Annotated[Literal["turns", "blocks"], typer.Option()] = "turns"
    share: Annotated[float | None, typer.Option(parser=with_unit("%", "0.15 or 15%"))] = None
    json: Annotated[bool, typer.Option("--json")] = False


def test_what_is_not_given_is_what_the_dataclass_says() -> None:
    assert parsed(Chosen, ["a"]) == Chosen(files=[Path("a")], concurrency=[1, 4])
    assert Chosen(files=[]).systems == ["llm_only", "slm_only"]


def test_options_of_all_kinds_are_read() -> None:
    words = "a --systems x y=1 --json b --concurrency 2,3 --order blocks --share 15% --router-arg --tau=1 --systems z"
    assert parsed(Chosen, [*words.split(), "--router-arg=--systems"]) == Chosen(
        files=[Path("a"), Path("b")],
        systems=["x", "y=1", "z"],
        json=True,
        concurrency=[2, 3],
        order="blocks",
        share=0.15,
        router_arg=["--tau=1", "--systems"],
    )
    assert parsed(Chosen, ["a", "--systems", "-1", "2"]).systems == ["-1", "2"]
    # Numbers in one word are one word: what follows is none of them.
    assert parsed(Chosen, ["--concurrency", "2,3", "a"]) == Chosen(files=[Path("a")], concurrency=[2, 3])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a", "--threads", "0"], "'--threads'"),
        (["a", "--concurrency", "2,0"], "'--concurrency': '2,0': each should be a whole number above 0"),
        (["a", "--share", "much"], "'--share': 'much' is no number such as 0.15 or 15%"),
        (["a", "--order", "any"], "'--order'"),
        (["a", "--systems"], "'--systems' requires an argument"),
        (["a", "--nothing"], "No such option: --nothing"),
        ([], "Missing argument 'FILE'"),
    ],
)
def test_what_cannot_be_is_refused_by_the_name_of_its_flag(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_program("program", "", lambda options: 0, Chosen, words) == 2
    assert said in re.sub(r"[\s│]+", " ", capsys.readouterr().err)


def test_some_of_the_names_are_those_and_numbers_are_finite() -> None:
    assert some_of(("a", "b"))("b, a") == ["b", "a"]
    assert numbers("") == []
    with pytest.raises(typer.BadParameter, match="'c' is none of a, b"):
        some_of(("a", "b"))("a,c")
    with pytest.raises(typer.BadParameter, match="each should be finite"):
        numbers("1,nan")
    with pytest.raises(typer.BadParameter, match="'x' is not numbers"):
        numbers("x")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (None, 7, ""),
        (invalid("--n", "too many.", "Give fewer."), 2, "error: --n: too many. Give fewer."),
        (StackError("the router has ended."), 1, "error: the router has ended."),
        (ValueError("no such figure"), 2, "error: no such figure"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_a_program_ends_with_the_code_of_what_became_of_it(
    error: BaseException | None, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(options: Loads) -> int:
        if error is not None:
            raise error
        return 7

    assert run_program("program", "What it does.", run, Loads, [], bad_input=(ValueError,)) == code
    assert capsys.readouterr().err.strip() == said


def test_only_the_command_that_is_asked_for_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "program_of_two"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "broken.py").write_text("raise RuntimeError('it is loaded')")
    (package / "good.py").write_text(
        "'''Is good.'''\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Options:\n    n: int = 1\n"
        "def run(options):\n    print(options)\n    return options.n\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        commands = {"broken": "what is broken", "good": "what is good"}
        code = run_command("two", "Two.", package.name, commands, arguments)
        return code, capsys.readouterr().out

    assert run("good", "--n", "3") == (3, "Options(n=3)\n")
    code, told = run("--help")
    assert code == 0
    assert "what is broken" in told
    assert "what is good" in told
    code, told = run("good", "--help")
    assert code == 0
    assert "Usage: two good [OPTIONS]" in told
    assert "Is good." in told
    assert f"{package.name}.broken" not in sys.modules
    with pytest.raises(RuntimeError, match="it is loaded"):
        run("broken")
