"""Writes an answer into the store, in order and behind the decode loop's back; only what is stored is shown.

The loop adds and goes on; a task appends all that has come meanwhile in one go. So Redis costs no decoding time, and a
reader never sees a token that a crash could take back. It knows neither models nor readers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import structlog

from router_svc.trajectory.store import Behind, Owned, TrajectoryStore
from router_svc.trajectory.types import Chunk, FinishReason, State, joined
from router_svc.trajectory.usage import Usage
from rstitch.errors import RstitchError

_log = structlog.get_logger(__name__)
# The loop waits when so many chunks are not stored yet.
_MAX_PENDING_CHUNKS = 512


class Journal:
    """The one writer of one trajectory while this router owns it.

    Args:
        owned: the fence.
        length: of the trajectory so far.
        usage: of the answer so far.
        show: called with chunks once they are stored.
    """

    def __init__(
        self,
        store: TrajectoryStore,
        session_id: str,
        owned: Owned,
        length: int,
        usage: Usage,
        show: Callable[[list[Chunk]], None],
    ) -> None:
        self._store = store
        self._session_id = session_id
        self._owned = owned
        self._show = show
        self.length = length  # stored
        self._stored: list[Chunk] = []  # by this journal
        self._usage = usage.copy()  # of what is stored
        self._pending: list[tuple[Chunk, Usage]] = []
        self._closing = False
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self.task = asyncio.create_task(self._write(), name=f"journal-{session_id}")

    def add(self, chunk: Chunk, usage: Usage) -> None:
        """Takes a chunk; `usage` is the answer's up to and with it.

        An empty one is stored with the next token or not at all: until then its hand-over can be decided anew.
        """
        self._pending.append((chunk, usage.copy()))
        if chunk.tokens:
            self._work.set()
        if len(self._pending) >= _MAX_PENDING_CHUNKS:
            self._room.clear()

    @property
    def has_room(self) -> bool:
        """Whether `room` would return at once."""
        return self._room.is_set()

    async def room(self) -> None:
        """Returns when there is room for more. Should the journal fail, its owner must cancel whoever waits here."""
        await self._room.wait()

    async def close(self) -> None:
        """Takes no more; returns when no append is under way. Raises what the store raises."""
        self._closing = True
        self._work.set()
        await self.task

    async def finish(self, reason: FinishReason, usage: Usage) -> None:
        """Stores what is left together with the end. Raises what the store raises."""
        await self.close()
        self._usage = usage.copy()
        await self._flush(State.FINISHED, reason, keep_usage=True)

    async def interrupt(self, patience_s: float | None = None) -> None:
        """Stores what is left and sets the trajectory free for others to go on with; also after the task failed.

        Raises what the store raises.
        """
        if not self.task.done():
            await self.close()
        await self._flush(State.INTERRUPTED, patience_s=patience_s)

    async def _write(self) -> None:
        while True:
            await self._work.wait()
            if self._closing:
                return
            self._work.clear()
            await self._flush(State.RUNNING)

    async def _flush(
        self,
        state: State,
        finish: FinishReason | None = None,
        *,
        keep_usage: bool = False,
        patience_s: float | None = None,
    ) -> None:
        """Stores the pending chunks up to the last that has tokens; should that fail, they stay pending."""
        num = max((index + 1 for index, (chunk, _) in enumerate(self._pending) if chunk.tokens), default=0)
        ready = self._pending[:num]
        usage = ready[-1][1] if ready and not keep_usage else self._usage
        chunks = joined(chunk for chunk, _ in ready)
        try:
            await self._append(self.length, chunks, usage, state, finish, patience_s)
        except Behind as error:
            rest = self._since(error.length, chunks)
            await self._append(error.length, rest, usage, state, finish, patience_s)
        del self._pending[:num]
        self._usage = usage
        self._stored += chunks
        self.length += sum(len(chunk.tokens) for chunk in chunks)
        self._room.set()
        if chunks:
            self._show(chunks)

    async def _append(
        self,
        length: int,
        chunks: list[Chunk],
        usage: Usage,
        state: State,
        finish: FinishReason | None,
        patience_s: float | None,
    ) -> None:
        await self._store.append(self._session_id, self._owned, length, chunks, usage, state, finish, patience_s)

    def _since(self, length: int, chunks: list[Chunk]) -> list[Chunk]:
        """What the store lacks of what was stored and of `chunks`, which follow. Raises RstitchError (DATA_LOSS) if
        that is not known here.

        It may have lost the end, or have more than thought: an append whose reply never came.
        """
        known = self._stored + chunks
        first, end = (known[0].position, known[-1].end) if known else (self.length, self.length)
        if not first <= length <= end:
            raise RstitchError(
                grpc.StatusCode.DATA_LOSS,
                "TRAJECTORY_LOST",
                f"Redis has {length} of the session's {self.length} tokens.",
                remedy="Ask again under a new session; let Redis write its file at every change.",
                metadata={"session_id": self._session_id},
            )
        if length < self.length:
            _log.warning("redis lost the end of a trajectory, written again", length=length, lost=self.length - length)
        # An empty chunk was stored together with the token at its position.
        return [c.since(length) for c in known if c.end > length or (not c.tokens and c.position >= length)]
