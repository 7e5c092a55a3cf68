"""Programs of ours, as typer runs them: one command, or several of which only the one that is asked for is loaded.

What a command takes is a dataclass (`evals.options`), what it does a function of one value of it that returns the exit
code. Errors are said as `rstitch` says its own.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import typer
from rich.markup import escape

from evals.options import Command, with_options
from rstitch.cli.common import BAD_INPUT, command, print_error

BadInput = tuple[type[Exception], ...]


def run_command(
    prog: str, description: str | None, package: str, commands: Mapping[str, str], arguments: Sequence[str]
) -> int:
    """Runs the command that comes first in `arguments`: a module of `package` that has `Options` and `run`.

    Args:
        commands: names, and what they do.

    Returns: the exit code: 2 for bad input, 1 for other failures.
    """
    app = _app(help=_unwrapped(description), no_args_is_help=True)
    app.callback()(_nothing)
    for name, summary in commands.items():
        if name in arguments[:1]:
            module = importlib.import_module(f"{package}.{name}")
            run = _told(module.run, module.Options)
            app.command(name, cls=Command, help=_unwrapped(module.__doc__), short_help=summary)(command(run))
        else:
            app.command(name, help=summary)(_nothing)
    return _exit_code(app, prog, arguments)


def run_program(
    prog: str,
    description: str | None,
    run: Callable[[Any], int],
    options: type,
    arguments: Sequence[str] | None = None,
    *,
    bad_input: BadInput = (),
) -> int:
    """Runs a program of one command; without `arguments` on those of the process.

    Args:
        bad_input: errors that are the caller's fault, beside ours; each is said in one line.

    Returns: the exit code: 2 for bad input, 1 for other failures.
    """
    return run_function(prog, description, _told(run, options, bad_input), arguments)


def run_function(
    prog: str, description: str | None, told: Callable[..., None], arguments: Sequence[str] | None = None
) -> int:
    """Runs a program of one command, whose options are the parameters of a function; returns as `run_program` does."""
    app = _app()
    app.command(cls=Command, help=_unwrapped(description))(command(told))
    return _exit_code(app, prog, arguments)


def _app(**settings: Any) -> typer.Typer:
    helped = {"help_option_names": ["-h", "--help"]}
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, context_settings=helped, **settings)


def _unwrapped(text: str | None) -> str:
    """Joins the lines of each paragraph, since the terminal has a width of its own; brackets stay what they are."""
    return escape("\n\n".join(" ".join(paragraph.split()) for paragraph in (text or "").split("\n\n")))


def _nothing() -> None:
    """Stands for a command that is not asked for."""


def _told(run: Callable[[Any], int], options: type, bad_input: BadInput = ()) -> Callable[..., None]:
    def ended(chosen: Any) -> None:
        try:
            code = run(chosen)
        except bad_input as error:
            print_error(str(error))
            code = BAD_INPUT
        raise typer.Exit(code)

    return with_options(ended, options)


def _exit_code(app: typer.Typer, prog: str, arguments: Sequence[str] | None) -> int:
    try:
        app(None if arguments is None else list(arguments), prog_name=prog)
    except SystemExit as end:
        return int(end.code or 0)
    return 0
