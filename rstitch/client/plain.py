"""The client's values as JSON can say them, by the names of the contract. It knows no wire and writes no JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from rstitch.client.specs import Spec, policy_text, text_of
from rstitch.client.types import Event, Finished, KeptProfile, Trajectory


def as_dict(value: Any) -> dict[str, Any]:
    """Turns a value of the client into plain ones; a time stays a `datetime`."""
    plain: dict[str, Any] = dataclasses.asdict(value)
    for ours, theirs in (("from_model", "from"), ("to_model", "to")):
        if ours in plain:
            plain[theirs] = plain.pop(ours)
    return plain


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
