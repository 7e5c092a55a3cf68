"""Trajectories in a store, begun by hand; and what a journal shows of them."""

from __future__ import annotations

import itertools

from router_svc.trajectory import keys
from router_svc.trajectory.store import Owned, TrajectoryStore
from router_svc.trajectory.types import (
    Chunk,
    Source,
    SwitchReason,
    entropies_of,
    tokens_of,
)
from router_svc.trajectory.usage import Usage


def chunk(source: Source, position: int, *tokens: int, reason: SwitchReason = SwitchReason.NONE) -> Chunk:
    entropies = [] if source is Source.PROMPT else [0.1] * len(tokens)
    return Chunk(source, position, tokens_of(tokens), entropies_of(entropies), reason, 0.75 if reason else 0.0)


PROMPT = chunk(Source.PROMPT, 0, 1, 2, 2**32 - 1)


async def begun(store: TrajectoryStore, router: str = "a", session: str = "s") -> Owned:
    claimed = await store.claim(None, session, router, "settings", Usage(num_prompt_tokens=3), [PROMPT])
    assert isinstance(claimed, Owned)
    return claimed


def beside(name: str) -> str:
    """The name of another session of the same tenant and shard."""
    names = (f"{name}-{number}" for number in itertools.count())
    return next(other for other in names if keys.of_session(other).listing == keys.of_session(name).listing)


class Recorder:
    """What the journal has shown."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []

    def show(self, chunks: list[Chunk]) -> None:
        self.chunks += chunks
