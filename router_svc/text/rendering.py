"""Jinja as transformers sets it up for chat templates: what a template may name, and nothing that leads outside.

It knows no messages and no model: a template's source and its variables in, text out.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.utils
from jinja2.sandbox import ImmutableSandboxedEnvironment

# A model has a handful of templates, a router two models.
_MAX_COMPILED = 32


def check_syntax(source: str) -> None:
    """Raises jinja2.TemplateSyntaxError if the source is no template."""
    _environment().parse(source)


def render(source: str, variables: Mapping[str, Any]) -> str:
    """The text that a template makes of its variables. Raises whatever the template does."""
    return _compiled(source).render(variables)


@functools.lru_cache(_MAX_COMPILED)
def _compiled(source: str) -> jinja2.Template:
    return _environment().from_string(source)


@functools.lru_cache(1)
def _environment() -> jinja2.Environment:
    """Sandboxed, as templates from the hub are other people's code."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlocks, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": _raise_exception,
        # Templates of some models put the date into the first message.
        "strftime_now": lambda form: datetime.now().strftime(form),
        "dict": _Dicts(),
        "namespace": _Namespace,
    }
    return environment


class _GenerationBlocks(jinja2.ext.Extension):
    """Lets `{% generation %}` through, which marks the assistant's words for training and means nothing here."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own form

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


class _Dicts:
    """The `dict` of templates: makes dicts, and has no other attribute of the class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(jinja2.utils.Namespace):
    """Jinja's own, but for names with an underscore in front, which are Python's."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        # No name of an argument of ours: a template may keep any, `self` too.
        self, *rest = args
        given = dict(*rest, **kwargs)
        for name in given:
            _check_name(name)
        jinja2.utils.Namespace.__init__(self, given)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace of a chat template may not keep {name!r}")


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
