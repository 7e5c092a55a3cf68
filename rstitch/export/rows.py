"""A trajectory as one row: flat facts, its usage, and its segments nested in it. It knows no file."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Any

from rstitch.client.events import Usage
from rstitch.client.specs import policy_text
from rstitch.client.status import Trajectory

Row = dict[str, Any]
# What an answer took, in the contract's names: counts, and times in microseconds; parts of the time beside them.
USAGE = tuple(field.name for field in dataclasses.fields(Usage) if field.name != "breakdown")
BREAKDOWN = tuple(field.name for field in dataclasses.fields(Usage().breakdown))


def row_of(trajectory: Trajectory) -> Row:
    """Makes the row of a trajectory; what its last answer does not have yet, or was not given, is None."""
    finished = trajectory.finished
    usage = finished.usage if finished is not None else None
    return {
        "session_id": trajectory.session_id,
        "state": trajectory.state.value,
        "label": trajectory.label.value if trajectory.label.value != "unspecified" else None,
        "policy": policy_text(trajectory.policy),
        "created": trajectory.created,
        "updated": trajectory.updated,
        "length": trajectory.length,
        "trace_id": trajectory.trace_id or None,
        "finish_reason": finished.reason.value if finished is not None else None,
        "profile": (finished.profile or None) if finished is not None else None,
        "usage": _usage(usage) if usage is not None else None,
        "segments": [
            {
                "source": segment.source.value,
                "position": segment.position,
                "text": segment.text,
                "reason": segment.reason.value,
                "switch_entropy": segment.switch_entropy,
                "tokens": list(segment.tokens),
                "entropies": list(segment.entropies),
                "uncertainties": list(segment.uncertainties),
            }
            for segment in trajectory.segments
        ],
    }


def plain(row: Row) -> Row:
    """The row as JSON can say it: times as texts by ISO 8601."""
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}


def _usage(usage: Usage) -> Row:
    breakdown = {name: getattr(usage.breakdown, name) for name in BREAKDOWN}
    return {name: getattr(usage, name) for name in USAGE} | {"breakdown": breakdown}
