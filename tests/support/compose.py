"""Compose files as compose reads them, as far as ours go: one laid over the other, variables put in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]


class _Tag:
    """`!override` and `!reset`: what stood there before is gone."""

    def __init__(self, value: Any) -> None:
        self.value = value


class _Loader(yaml.SafeLoader):
    pass


def _tagged(loader: yaml.SafeLoader, node: yaml.Node) -> _Tag:
    if isinstance(node, yaml.SequenceNode):
        return _Tag(loader.construct_sequence(node, deep=True))
    return _Tag(None)


for _name in ("!override", "!reset"):
    _Loader.add_constructor(_name, _tagged)


def compose(*names: str, variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The services, networks and secrets that these files come to."""
    found: Any = {}
    for name in names:
        found = _laid_over(found, yaml.load((ROOT / name).read_text(), _Loader))
    filled: dict[str, Any] = _filled(found, variables or {})
    return filled


def _laid_over(below: Any, above: Any) -> Any:
    if isinstance(above, _Tag):
        return above.value
    if isinstance(below, dict) and isinstance(above, dict):
        return below | {key: _laid_over(below.get(key), value) for key, value in above.items()}
    # Lists are added to, but for what is one thing in a row: a command.
    if isinstance(below, list) and isinstance(above, list) and not _is_command(above):
        return [*below, *above]
    return below if above is None else _untagged(above)


def _untagged(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _laid_over(None, each) for key, each in value.items()}
    return value


def _is_command(value: list[Any]) -> bool:
    return bool(value) and value[0] in ("sh", "python", "redis-server", "CMD", "CMD-SHELL")


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(each, variables) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, variables) for each in value]
    if isinstance(value, str):
        put_in = re.sub(r"(?<!\$)\$\{(\w+):?-([^}]*)\}", lambda match: variables.get(match[1], match[2]), value)
        return put_in.replace("$$", "$")
    return value
