"""Reads a message of the contract as a value whose fields have the same names, and numbers of its enums as members."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC
from enum import StrEnum
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar

from rstitch.client import types as t
from rstitch.v1 import common_pb2, router_pb2

V = TypeVar("V")
Getter = Callable[[Any], Any]


def read(kind: type[V], m: Any, **given: Any) -> V:
    """Reads a message as the value whose fields have the same names; `given` has those that differ in more."""
    of: Any = kind
    plain_names, values_of, others = _readers(of, m.DESCRIPTOR)
    made = dict(zip(plain_names, values_of(m), strict=True)) | given
    for name, plain in others:
        if name not in made:
            made[name] = plain(m)
    return kind(**made)


@cache
def _readers(kind: type, descriptor: Any) -> tuple[tuple[str, ...], Getter, tuple[tuple[str, Getter], ...]]:
    """How the fields of a kind are read: all plain ones in one call (an answer's end has thirty), others alone."""
    fields = {name: descriptor.fields_by_name.get(name) for name in _names(kind)}
    plain = tuple(name for name, field in fields.items() if field is not None and _is_plain(field))
    if len(plain) < 2:  # of one name alone it would give no tuple
        plain = ()
    others = tuple((name, _reader(name, field)) for name, field in fields.items() if name not in plain)
    return plain, attrgetter(*plain) if plain else _nothing, others


def _nothing(m: Any) -> tuple[Any, ...]:
    return ()


def _is_plain(field: Any) -> bool:
    """Whether a field always has a value, which is read as it is."""
    is_list = isinstance(field.default_value, list)
    return not (is_list or field.enum_type or field.message_type or field.has_presence)


def _reader(name: str, field: Any) -> Getter:
    get = attrgetter(name)
    if field is None:  # whoever reads such a value gives this one, or hears that the message has none
        return get
    if field.enum_type is not None:
        enum_name = field.enum_type.name
        return lambda m: enum(enum_name, get(m))
    if field.message_type is not None:
        return lambda m: get(m).ToDatetime(tzinfo=UTC)  # the only message that is a plain value is a time
    if field.has_presence:
        return lambda m: get(m) if m.HasField(name) else None
    return lambda m: value if isinstance(value := get(m), bool | int | float | str | bytes) else tuple(value)


def plain_fields(value: Any) -> dict[str, Any]:
    """Gives the fields of a value that has only plain ones, which `dataclasses.asdict` would look into for long."""
    kind: Any = type(value)
    return {name: getattr(value, name) for name in _names(kind)}


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


def enum(name: str, number: int) -> Any:
    """Finds the member for a number of an enum of the wire; what a newer router invented becomes UNSPECIFIED."""
    return _MEMBERS[name].get(number, _MEMBERS[name][0])


def _members(kind: type[StrEnum], wire: Any) -> dict[int, StrEnum]:
    prefix = wire.Name(0).removesuffix("UNSPECIFIED")
    return {number: kind(name.removeprefix(prefix).lower()) for name, number in wire.items()}


# By the name that an enum has here and on the wire: its members by their number there.
_MEMBERS = {
    kind.__name__: _members(kind, getattr(common_pb2, kind.__name__, None) or getattr(router_pb2, kind.__name__))
    for kind in (t.Model, t.Signal, t.SwitchReason, t.FinishReason, t.Source, t.TrajectoryState, t.Label)
}
