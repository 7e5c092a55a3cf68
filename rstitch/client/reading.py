"""Reads a message of the contract as a value whose fields have the same names, and numbers of its enums as members."""

from __future__ import annotations

import dataclasses
from datetime import UTC
from enum import StrEnum
from typing import Any, TypeVar

from rstitch.client import types as t
from rstitch.v1 import common_pb2, router_pb2

V = TypeVar("V")


def read(kind: type[V], m: Any, **given: Any) -> V:
    """Reads a message as the value whose fields have the same names; `given` has those that differ in more."""
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name not in given:
            given[field.name] = _plain(m, m.DESCRIPTOR.fields_by_name[field.name])
    return kind(**given)


def _plain(m: Any, field: Any) -> Any:
    value = getattr(m, field.name)
    if field.enum_type is not None:
        return enum(field.enum_type.name, value)
    if field.message_type is not None:
        return value.ToDatetime(tzinfo=UTC)  # the only message that is a plain value is a time
    if isinstance(value, bool | int | float | str | bytes):
        return None if field.has_presence and not m.HasField(field.name) else value
    return tuple(value)


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
