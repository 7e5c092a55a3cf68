"""Programs of one typer command: flags that travel together are one frozen value. It knows none of the flags.

A command is a function. A parameter that is a dataclass stands for its fields, each of which is a flag and says so
(`Annotated[..., typer.Option(...)]`), and may be such a dataclass itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, get_type_hints

from evals.commands import run_function

# The metavar of a flag whose values may stand side by side ends so, as `evals.options.Command` reads: `--taus 0.1 0.2`.
SEVERAL = " ..."


def run(function: Callable[..., None], prog: str, about: str | None, arguments: Sequence[str] | None = None) -> int:
    """Runs a command and gives its exit code: 2 for bad input, 1 for other failures.

    Args:
        about: the help, below the usage.
        arguments: None: those of the process.
    """
    return run_function(prog, about, _flat(function), arguments)


def _flat(function: Callable[..., None]) -> Callable[..., None]:
    """Makes a function that takes flags, and gives `function` the values that they are of."""
    parameters = inspect.signature(function, eval_str=True).parameters.values()

    def called(**given: Any) -> None:
        function(**{each.name: _value(each.name, each.annotation, given) for each in parameters})

    flat = [flag for each in parameters for flag in _flags(each.name, each.annotation, each.default)]
    told: Any = called
    told.__signature__ = inspect.Signature(flat)
    told.__annotations__ = {flag.name: flag.annotation for flag in flat} | {"return": None}
    return called


def _flags(name: str, kind: Any, default: Any) -> Iterator[inspect.Parameter]:
    if is_dataclass(kind):
        hints = get_type_hints(kind, include_extras=True)
        for field in fields(kind):
            yield from _flags(field.name, hints[field.name], _default(field))
    else:
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return inspect.Parameter.empty if field.default is MISSING else field.default


def _value(name: str, kind: Any, given: dict[str, Any]) -> Any:
    if not is_dataclass(kind):
        return given[name]
    hints = get_type_hints(kind, include_extras=True)
    made: Any = kind
    return made(**{field.name: _value(field.name, hints[field.name], given) for field in fields(kind)})
