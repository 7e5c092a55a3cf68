"""The client's values as JSON can say them, by the names of the contract. It knows no wire and writes no JSON."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from functools import cache
from typing import Any

from rstitch.client.specs import Spec, policy_text, text_of
from rstitch.client.types import Event, Finished, KeptProfile, Trajectory

# `from` is a keyword of Python.
_THEIRS = {"from_model": "from", "to_model": "to"}


def as_dict(value: Any) -> dict[str, Any]:
    """Turns a value of the client into plain ones; a time becomes a text by ISO 8601.

    A token's bytes become its `text`; one with a part of a character has escapes, and `bytes` beside it.
    """
    made: dict[str, Any] = {}
    kind: Any = type(value)
    for name in _names(kind):
        given = getattr(value, name)
        made[_THEIRS.get(name, name)] = plain = _plain(given)
        if name == "text" and isinstance(given, bytes) and plain.encode() != given:
            made["bytes"] = list(given)
    return made


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


def _plain(value: Any) -> Any:
    # A trajectory has tens of thousands of numbers, which are not looked at one by one.
    if isinstance(value, int | float | str) or value is None:
        return value
    if isinstance(value, tuple):
        return [as_dict(each) for each in value] if value and dataclasses.is_dataclass(value[0]) else list(value)
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return value.isoformat() if isinstance(value, datetime) else as_dict(value)


def event_dict(event: Event) -> dict[str, Any]:
    """Turns an event of an answer into plain values: which one it is under `event`, its policy as one word."""
    plain = {"event": type(event).__name__.lower(), **as_dict(event)}
    return plain | ({"policy": policy_text(event.policy)} if isinstance(event, Finished) else {})


def trajectory_dict(trajectory: Trajectory) -> dict[str, Any]:
    """Turns a trajectory into plain values, its policies as one word each."""
    plain = as_dict(trajectory)
    plain["policy"] = policy_text(trajectory.policy)
    if trajectory.finished:
        plain["finished"]["policy"] = policy_text(trajectory.finished.policy)
    return plain


def profile_dict(profile: KeptProfile) -> dict[str, Any]:
    """Turns a profile into plain values; `policy` is the whole word that `rstitch.client.specs.parse` reads."""
    return as_dict(profile) | {"policy": text_of(Spec(profile.policy, profile.early_exit, profile.budget))}
