"""Options of a command as one frozen value: the fields of a dataclass are the flags, and typer reads them.

A field is annotated as a parameter of a typer command is, `Annotated[int, typer.Option(min=1, help="...")]`; options
that many commands have are dataclasses that theirs inherit from, and a field declared again has another default. This
module does not know which options there are.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, get_type_hints

from typer.core import TyperCommand, TyperOption

from rstitch.errors import invalid

T = TypeVar("T")


def many(*defaults: T) -> Any:
    """Makes the default of a field that is a list."""
    return dataclasses.field(default_factory=lambda: list(defaults))


def with_options(function: Callable[[Any], T], options: type) -> Callable[..., T]:
    """Gives a function of one value of the dataclass `options` the parameters that its fields are."""
    hints = get_type_hints(options, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(options)}
    # Its own come first in --help, then those that it has from others.
    names = dict.fromkeys(name for each in options.__mro__ for name in inspect.get_annotations(each) if name in fields)
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_default(fields[name]), annotation=hints[name])
        for name in names
    ]

    def called(**given: Any) -> T:
        return function(options(**given))

    told: Any = called
    told.__signature__ = inspect.Signature(parameters)
    told.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called


class Command(TyperCommand):
    """A command whose lists with a metavar such as POLICY... take all words up to the next flag: `--systems a b`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the words after such a flag as if the flag stood before each."""
        several = (each for each in self.params if isinstance(each, TyperOption) and each.multiple)
        flags = {flag for each in several if (each.metavar or "").endswith("...") for flag in each.opts}
        return super().parse_args(ctx, _spread(args, flags))


def _spread(words: Iterable[str], flags: set[str]) -> list[str]:
    found: list[str] = []
    flag = ""
    for word in words:
        is_first = bool(flag) and found[-1] == flag  # the first is a value whatever it looks like
        if word.startswith("-") and not is_first:
            flag = word if word in flags else ""
        elif flag and not is_first:
            found.append(flag)
        found.append(word)
    return found


def at_most_one(given: Mapping[str, object]) -> None:
    """Checks that at most one of these flags has a value. Raises: RstitchError (INVALID_ARGUMENT) that names two."""
    named = [flag for flag, value in given.items() if value is not None and value is not False]
    if len(named) > 1:
        raise invalid(named[1], f"it stands beside {named[0]}.", "Give one or the other.")


def _default(field: dataclasses.Field[Any]) -> Any:
    """The default as typer takes and shows it: numbers that stand in one word with commas between them are that."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    if field.default is dataclasses.MISSING:
        return inspect.Parameter.empty
    if isinstance(field.default, tuple):
        return ",".join(str(value) for value in field.default)
    return field.default
