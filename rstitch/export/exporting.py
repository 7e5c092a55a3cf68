"""One round of an export: what has changed goes into a file, and then it is noted that it did.

A round that breaks off has written nothing under its name, or a file that the next round writes again: so that a round
may come twice, and none is lost.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Protocol

import grpc

from rstitch.client.status import Trajectory, TrajectoryState
from rstitch.errors import RstitchError
from rstitch.export.changes import Exported, Listing, changed
from rstitch.export.places import Place
from rstitch.export.rows import row_of
from rstitch.export.writers import WRITERS

STATE = "_exported.json"


class Source(Listing, Protocol):
    """A client, of which the listing and single trajectories are asked."""

    def trajectory(self, session_id: str) -> Trajectory: ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which trajectories are meant."""

    since: datetime | None = None
    labelled: bool = False
    running: bool = False


# Called with how many of how many are done.
Progress = Callable[[int, int], None]


class Export:
    """Writes the trajectories of one router's tenant into one place.

    Args:
        file: its name there, which each round replaces; "": each round adds a part to the folder.
        format: jsonl or parquet.
    """

    def __init__(self, client: Source, place: Place, file: str, format: str, wanted: Wanted) -> None:
        self._client = client
        self._place = place
        self._file = file
        self._format = format
        self._wanted = wanted

    def round(self, progress: Progress) -> int:
        """Writes what has changed since the last round, or all into the one file; returns how many.

        Raises: RstitchError.
        """
        exported = Exported()
        if not self._file and (kept := self._place.read(STATE)) is not None:
            exported = Exported.from_json(kept)
        ids = changed(
            self._client,
            exported,
            since=self._wanted.since,
            labelled=self._wanted.labelled,
            running=self._wanted.running,
        )
        if not ids and not self._file:
            return 0
        fetched = self._fetched(ids, exported)
        first = next(fetched, None)
        num = 0
        if first is not None or self._file:
            num = self._write(chain([first] if first is not None else [], fetched), exported, len(ids), progress)
        if not self._file:
            exported.forget_old()
            with self._place.write(STATE) as stream:
                stream.write(exported.to_json())
        return num

    def _write(self, trajectories: Iterable[Trajectory], exported: Exported, total: int, progress: Progress) -> int:
        name = self._file or f"part-{exported.num_parts:06d}.{self._format}"
        num = 0
        # Closed in any case; what it holds of a round that broke off goes with the file.
        with self._place.write(name) as stream, contextlib.closing(WRITERS[self._format](stream)) as writer:
            for trajectory in trajectories:
                writer.add(row_of(trajectory))
                exported.note(trajectory)
                num += 1
                progress(num, total)
        exported.num_parts += 1
        return num

    def _fetched(self, ids: list[str], exported: Exported) -> Iterator[Trajectory]:
        for session_id in ids:
            try:
                trajectory = self._client.trajectory(session_id)
            except RstitchError as error:
                if error.code is not grpc.StatusCode.NOT_FOUND:
                    raise
                exported.forget(session_id)  # deleted, or expired
                continue
            # Its next answer may have begun since it was listed: that comes when it is over.
            if self._wanted.running or trajectory.state is not TrajectoryState.RUNNING:
                yield trajectory
            else:
                exported.labels.pop(session_id, None)  # the label was of the answer before, and is no change any more
