"""Trajectories as they are stored, whoever wrote them: read, listed and labelled. No answer changes by it."""

from __future__ import annotations

from router_svc.answers import refusals
from router_svc.trajectory.listing import Cursor
from router_svc.trajectory.store import TrajectoryStore
from router_svc.trajectory.types import Header, Label, State, Trajectory


class Kept:
    """The store, with refusals for what it has not."""

    def __init__(self, store: TrajectoryStore) -> None:
        self._store = store

    async def trajectory(self, name: str) -> Trajectory:
        """The trajectory as it is stored. Raises RstitchError (NOT_FOUND)."""
        trajectory = await self._store.trajectory(name)
        if trajectory is None:
            raise refusals.unknown_session(name)
        return trajectory

    async def page(
        self, tenant: str, num: int, before: Cursor | None, *, labelled: bool
    ) -> tuple[list[Header], Cursor | None]:
        return await self._store.page(num, before, tenant=tenant, labelled=labelled)

    async def label(self, name: str, label: Label | None) -> None:
        """Says whether the last answer was right; None takes that back. Raises RstitchError unless it is finished."""
        state = await self._store.label(name, label)
        if state is None:
            raise refusals.unknown_session(name)
        if state is not State.FINISHED:
            raise refusals.not_finished(name, state)
