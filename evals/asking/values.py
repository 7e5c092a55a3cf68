"""Values of options that typer has no type for: each is read from a word, or refused with what would be right.

A reader is a `parser` of `typer.Option`, which puts the flag's name before what it says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer


class OutsideServer(NamedTuple):
    """What another server is called here, and where its API is."""

    name: str
    url: str


def positives(text: str) -> list[int]:
    """Reads whole numbers above 0, with commas between them; none if empty."""
    found = wholes(text)
    if not all(number > 0 for number in found):
        raise typer.BadParameter(f"{text!r}: each should be a whole number above 0")
    return found


def counts(help: str) -> Any:
    """Makes an option of whole numbers above 0 in one word, such as 1,4,16; `Sequence[int]` is its type."""
    return typer.Option(parser=positives, metavar="N,...", help=help)


def wholes(text: str) -> list[int]:
    """Reads whole numbers from 0 on, with commas between them; none if empty."""
    parts = _parts(text)
    if not all(part.isdecimal() for part in parts):
        raise typer.BadParameter(f"{text!r} is not whole numbers with commas between them")
    return [int(part) for part in parts]


def numbers(text: str) -> list[float]:
    """Reads numbers with commas between them; none if empty."""
    try:
        found = [float(part) for part in _parts(text)]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not numbers with commas between them") from None
    if not all(math.isfinite(number) for number in found):
        raise typer.BadParameter(f"{text!r}: each should be finite")
    return found


def rates(text: str) -> list[float]:
    """Reads numbers above 0 with commas between them; none if empty."""
    found = numbers(text)
    if not all(number > 0 for number in found):
        raise typer.BadParameter(f"{text!r}: each should be above 0")
    return found


def some_of(names: Sequence[str]) -> Callable[[str], list[str]]:
    """Makes a reader of some of these names, with commas between them."""

    def chosen(text: str) -> list[str]:
        for part in _parts(text):
            if part not in names:
                raise typer.BadParameter(f"{part!r} is none of {', '.join(names)}")
        return _parts(text)

    return chosen


def one_of(names: Iterable[str]) -> Callable[[str], str]:
    """Makes a reader of one of these names; where they are few and known, a Literal is the better type."""
    known = tuple(names)

    def chosen(text: str) -> str:
        if text not in known:
            raise typer.BadParameter(f"{text!r} is none of {', '.join(known)}")
        return text

    return chosen


def choice(names: Collection[str], help: str) -> Any:
    """Makes an option of one of these names; `str` is its type."""
    return typer.Option(parser=one_of(names), metavar="|".join(names), help=help)


def with_unit(unit: str, example: str) -> Callable[[str], float]:
    """Makes a reader of a number that may have its unit behind it; per cent are hundredths."""

    def number(text: str) -> float:
        try:
            return float(text.removesuffix(unit)) / (100 if text.endswith("%") else 1)
        except ValueError:
            raise typer.BadParameter(f"{text!r} is no number such as {example}") from None

    return number


def outside_server(text: str) -> OutsideServer:
    """Reads what another server is called here and where its API is."""
    name, equals, url = text.partition("=")
    if not (name and equals and url.startswith(("http://", "https://"))):
        raise typer.BadParameter(f"{text!r} is not NAME=URL, such as vllm=http://localhost:8000/v1")
    return OutsideServer(name, url)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")] if text else []


# Of commands that have the same option with the same words; others write their own.
Device = Annotated[str, typer.Option(help="cpu or cuda:N.")]
Dtype = Annotated[
    str | None, typer.Option(help="float32 or bfloat16.", show_default="float32 on CPU, bfloat16 on CUDA")
]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads of torch.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="All figures go to this file, too.")]
