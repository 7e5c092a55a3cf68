"""How a command is let in by a router: the options of TLS and API key, the same for all of them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, ParamSpec

import typer

from rstitch.credentials import Credentials, variable_of

P = ParamSpec("P")

_ACCESS = "access"  # the parameter of a command that stands for all of these


def _option(field: str, metavar: str | None, help: str) -> Any:
    """Makes the option of a field of `Credentials`; a default of the environment is not shown."""
    return typer.Option(
        flag_of(field), envvar=variable_of(field), metavar=metavar, help=help, show_default=False,
        rich_help_panel="TLS and keys",
    )  # fmt: skip


def flag_of(field: str) -> str:
    """Gives the flag of a field, such as --tls-ca of `tls_ca`."""
    return f"--{field.replace('_', '-')}"


_OPTIONS: dict[str, Any] = {
    "tls": Annotated[bool, _option("tls", None, "Talk TLS; without --tls-ca this system's authorities are trusted.")],
    "tls_ca": Annotated[str, _option("tls_ca", "FILE", "Authorities of the server's certificate; talk TLS.")],
    "tls_cert": Annotated[str, _option("tls_cert", "FILE", "A certificate to show, where the server asks for one.")],
    "tls_key": Annotated[str, _option("tls_key", "FILE", "The key of that certificate.")],
    "tls_name": Annotated[str, _option("tls_name", "NAME", "What the server's certificate is for, if not its host.")],
    "api_key": Annotated[str, _option("api_key", "KEY", "API key. Others on this machine see flags: a file hides it.")],
    "api_key_file": Annotated[str, _option("api_key_file", "FILE", "File that holds the API key.")],
}


# The names of these options, as parameters of a command.
ACCESS_OPTIONS = frozenset(_OPTIONS)


def with_access(function: Callable[P, None]) -> Callable[P, None]:
    """Gives a command with a parameter `access` the options that its `Credentials` are made of."""
    signature = inspect.signature(function, eval_str=True)
    if _ACCESS not in signature.parameters:
        return function

    @functools.wraps(function)
    def asked(*args: P.args, **kwargs: P.kwargs) -> None:
        given: dict[str, Any] = {name: kwargs.pop(name) for name in _OPTIONS if name in kwargs}
        if _ACCESS not in kwargs:
            kwargs[_ACCESS] = Credentials(**given, called=flag_of)
        function(*args, **kwargs)

    own = [parameter for name, parameter in signature.parameters.items() if name != _ACCESS]
    keyword, empty = inspect.Parameter.KEYWORD_ONLY, {"tls": False}
    added = [
        inspect.Parameter(name, keyword, default=empty.get(name, ""), annotation=annotation)
        for name, annotation in _OPTIONS.items()
    ]
    told: Any = asked
    told.__signature__ = signature.replace(parameters=[*own, *added])
    told.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *added)} | {"return": None}
    return asked
