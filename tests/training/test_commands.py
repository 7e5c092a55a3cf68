"""Programs of training: how their flags are read, and that their help costs no torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest
import typer

from rstitch.errors import invalid
from rstitch.local.part import ROOT, StackError
from training.commands import SEVERAL, run


@dataclass(frozen=True, slots=True)
class Places:
    work: Annotated[Path, typer.Option()] = Path("work")
    arg: Annotated[list[str], typer.Option()] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Options:
    name: Annotated[str, typer.Option()]
    places: Places
    taus: Annotated[list[float] | None, typer.Option("--taus", "--tau", metavar=f"TAU{SEVERAL}")] = None
    is_fast: Annotated[bool, typer.Option("--fast")] = False


def read(*arguments: str) -> tuple[Options, list[str]]:
    found: list[tuple[Options, list[str]]] = []

    def keep(options: Options, files: Annotated[list[str] | None, typer.Argument()] = None) -> None:
        found.append((options, files or []))

    assert run(keep, "keep", "Keeps.", arguments) == 0
    return found[0]


def test_a_value_of_options_is_made_of_its_flags() -> None:
    assert read("--name", "a") == (Options("a", Places()), [])
    given = read("--name", "a", "--work", "w", "--fast", "--arg", "1", "--arg=--b")
    assert given == (Options("a", Places(Path("w"), ["1", "--b"]), is_fast=True), [])


@pytest.mark.parametrize(
    "words", [["--taus", "0.1", "0.2"], ["--taus", "0.1", "--taus", "0.2"], ["--tau", "0.1", "--taus=0.2"]]
)
def test_values_of_a_list_may_stand_side_by_side(words: list[str]) -> None:
    options, files = read("one", "two", *words, "--name", "a")
    assert (options.taus, files) == ([0.1, 0.2], ["one", "two"])


def test_only_flags_that_say_so_take_several() -> None:
    options, files = read("--name", "a", "--arg", "1", "2")
    assert (options.places.arg, files) == (["1"], ["2"])


def test_a_program_ends_with_the_code_of_what_went_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    def refuses(name: Annotated[str, typer.Option()]) -> None:
        raise invalid("--name", f"{name} is none.", "Give another.")

    def fails() -> None:
        raise StackError("it is gone")

    def stops() -> None:
        raise KeyboardInterrupt

    assert run(refuses, "it", None, ["--name", "a"]) == 2
    assert "--name: a is none. Give another." in capsys.readouterr().err
    assert run(refuses, "it", None, []) == 2
    assert "--name" in capsys.readouterr().err
    assert run(fails, "it", None, []) == 1
    assert run(stops, "it", None, []) == 130
    assert run(fails, "it", "About [it].", ["--help"]) == 0
    assert "About [it]." in capsys.readouterr().out


@pytest.mark.parametrize("module", ["training.head", "training.tiny", "training.shared_layers"])
def test_help_is_shown_without_loading_torch(module: str) -> None:
    code = (
        f"import sys; from {module}.__main__ import main; code = main(['--help']); "
        "sys.exit(code or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--help" in done.stdout


def test_a_model_without_a_recipe_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    from training.tiny.__main__ import main

    assert main(["tiny-slm", "huge"]) == 2
    assert "'huge' is none of tiny-slm" in capsys.readouterr().err
