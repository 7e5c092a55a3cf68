"""`rstitch version`, and `rstitch --version`."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from typing import Annotated

import typer

from rstitch import __version__
from rstitch.cli.common import Json, command, print_json

_OF_INTEREST = ("grpcio", "protobuf", "redis", "tokenizers", "transformers", "torch", "opentelemetry-sdk")


@command
def version(json: Json = False) -> None:
    """Prints the version; with --json also those of what it stands on."""
    if not json:
        typer.echo(f"rstitch {__version__}")
        return
    versions = {"rstitch": __version__, "python": platform.python_version()}
    for name in _OF_INTEREST:
        try:
            versions[name] = installed(name)
        except PackageNotFoundError:
            continue
    print_json(versions)


def _print_and_leave(asked: bool) -> None:
    if asked:
        typer.echo(f"rstitch {__version__}")
        raise typer.Exit


def main_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_and_leave, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Two language models write one answer."""
