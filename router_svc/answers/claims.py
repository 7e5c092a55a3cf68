"""Claims of sessions, and those of which this router does not know whether they went through: Redis was gone before it
replied.

Such a session would be this router's for as long as it lives, and nobody would write it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc

from router_svc.trajectory.binding import Binding
from router_svc.trajectory.errors import Behind, Fenced
from router_svc.trajectory.store import Owned, OwnedElsewhere, TrajectoryStore
from router_svc.trajectory.types import Chunk, Header, State
from router_svc.trajectory.usage import Usage
from rstitch.errors import RstitchError

_PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class _Unsure:
    """How a session is if its claim went through."""

    name: str
    owned: Owned
    length: int
    usage: Usage


class Claims:
    """Claims sessions for one router, and gives back those whose claims nobody knows of."""

    def __init__(self, store: TrajectoryStore, router_id: str) -> None:
        self._store = store
        self._router_id = router_id
        self._unsure: list[_Unsure] = []

    async def claim(
        self,
        before: Header | None,
        name: str,
        settings: str,
        usage: Usage,
        chunks: Sequence[Chunk],
        binding: Binding,
    ) -> Owned | OwnedElsewhere | None:
        """Claims a session as `TrajectoryStore.claim` does."""
        try:
            return await self._store.claim(before, name, self._router_id, settings, usage, chunks, binding)
        except RstitchError as error:
            if error.code is grpc.StatusCode.UNAVAILABLE:
                self._unsure.append(self._if_done(before, name, usage, chunks))
            raise

    def is_written_elsewhere(self, header: Header | None) -> bool:
        """Whether another router wrote there when the header was read, or died while it did."""
        return header is not None and header.state is State.RUNNING and header.owner != self._router_id

    async def tidy(self, is_busy: Callable[[str], bool]) -> None:
        """Gives back what was claimed and is not used, once the store can be reached; what is busy, a later time."""
        for unsure in list(self._unsure):
            if is_busy(unsure.name):
                continue
            if not await self._given_back(unsure):
                return
            self._unsure.remove(unsure)

    def _if_done(self, before: Header | None, name: str, usage: Usage, chunks: Sequence[Chunk]) -> _Unsure:
        length, epoch = (before.length, before.epoch) if before is not None else (0, 0)
        goes_on = before is not None and before.owner == self._router_id and before.state is State.FINISHED
        length += sum(len(chunk.tokens) for chunk in chunks)
        return _Unsure(name, Owned(epoch if goes_on else epoch + 1, self._router_id), length, usage.copy())

    async def _given_back(self, unsure: _Unsure) -> bool:
        """Marks it as interrupted if it went through and nobody came since; False if that is worth another try."""
        try:
            await self._store.append(
                unsure.name, unsure.owned, unsure.length, (), unsure.usage, State.INTERRUPTED, patience_s=_PATIENCE_S
            )
        except (Fenced, Behind):
            return True
        except RstitchError as failure:
            return failure.code is not grpc.StatusCode.UNAVAILABLE
        return True
