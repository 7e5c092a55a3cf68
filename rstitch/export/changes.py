"""Which trajectories have changed since the last export, by the router's listing. It reads no tokens and no files.

The listing has those that changed last first, by the clocks of the routers that wrote them. So what changed within a
minute before the last one that was seen is looked at again, and known by its time. A label moves nothing in the
listing: those with a label are compared one by one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from rstitch.client.status import Trajectory, TrajectoryState
from rstitch.errors import invalid

_MARGIN_MS = 60_000
_PAGE = 500


class Listing(Protocol):
    """A client, of which only the listing is asked."""

    def trajectories(self, page_size: int = 0, *, labelled: bool = False) -> Iterator[Trajectory]: ...


@dataclass
class Exported:
    """What was exported so far: it is kept beside the files, and the next run goes on from it."""

    num_parts: int = 0
    seen_ms: int = 0  # when the last that was seen had changed
    recent: dict[str, int] = field(default_factory=dict)  # ids and times of those that are looked at again
    labels: dict[str, str] = field(default_factory=dict)  # by id, of those that had one

    @classmethod
    def from_json(cls, text: bytes) -> Exported:
        """Reads what `to_json` wrote. Raises: RstitchError."""
        try:
            return cls(**json.loads(text))
        except (TypeError, ValueError) as error:
            what = f"the state of the last export cannot be read: {error}."
            raise invalid("--to", what, "Name an empty folder, or delete _exported.json there.") from error

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    def note(self, trajectory: Trajectory) -> None:
        """Notes that a trajectory was exported as it is."""
        self.recent[trajectory.session_id] = _ms(trajectory.updated)
        self.seen_ms = max(self.seen_ms, _ms(trajectory.updated))
        if trajectory.label.value == "unspecified":
            self.labels.pop(trajectory.session_id, None)
        else:
            self.labels[trajectory.session_id] = trajectory.label.value

    def forget(self, session_id: str) -> None:
        """Notes that there is no such trajectory any more."""
        self.recent.pop(session_id, None)
        self.labels.pop(session_id, None)

    def forget_old(self) -> None:
        """Drops what will not be looked at again."""
        since = self.seen_ms - _MARGIN_MS
        self.recent = {session_id: ms for session_id, ms in self.recent.items() if ms >= since}


def changed(
    client: Listing, exported: Exported, *, since: datetime | None = None, labelled: bool = False, running: bool = False
) -> list[str]:
    """Lists the sessions that are not exported as they are; the one that changed first comes first.

    Args:
        since: those that changed before are left out.
        labelled: those without a label are.
        running: whether those are meant, too, that are being written.
    """
    found: dict[str, Trajectory] = {}
    since_ms = _ms(since) if since is not None else 0
    bound_ms = max(exported.seen_ms - _MARGIN_MS, since_ms)
    while True:
        num_before, newest_ms = len(found), bound_ms
        for trajectory in client.trajectories(_PAGE, labelled=labelled):
            if _ms(trajectory.updated) < bound_ms:
                break
            newest_ms = max(newest_ms, _ms(trajectory.updated))
            if exported.recent.get(trajectory.session_id) != _ms(trajectory.updated):
                found[trajectory.session_id] = trajectory
        if len(found) == num_before:
            break
        # What changed while pages were read has moved to the front of them.
        bound_ms = max(bound_ms, newest_ms - _MARGIN_MS)
    gone: set[str] = set()
    if exported.num_parts:
        labels = {each.session_id: each for each in client.trajectories(_PAGE, labelled=True)}
        gone = exported.labels.keys() - labels.keys()  # taken back, or forgotten with the trajectory
        for session_id, trajectory in labels.items():
            if exported.labels.get(session_id) != trajectory.label.value and _ms(trajectory.updated) >= since_ms:
                found[session_id] = trajectory
    wanted = [each for each in found.values() if running or each.state is not TrajectoryState.RUNNING]
    wanted.sort(key=lambda each: (each.updated, each.session_id))
    return [*sorted(gone - found.keys()), *(each.session_id for each in wanted)]


def _ms(moment: datetime) -> int:
    return round(moment.astimezone(UTC).timestamp() * 1000)
