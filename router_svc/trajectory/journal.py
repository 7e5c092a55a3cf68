"""Writes an answer into the store, in order and beside the decode loop; only what is stored is shown.

The loop adds and goes on; a task appends all that has come meanwhile in one go. So Redis costs no decoding time, and a
reader never sees a token that a crash could take back. It knows neither models nor readers.

    |--- self._stored ---|--- chunks of the append under way ---|--- self._pending ---|
    start                self.length                                                  where the loop is

What is left of `self.length` readers have seen. An append that fails moves nothing: its chunks stay pending.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import structlog

from router_svc.trajectory.errors import Behind, lost
from router_svc.trajectory.store import Owned, TrajectoryStore
from router_svc.trajectory.types import Chunk, FinishReason, State, joined
from router_svc.trajectory.usage import Usage

_log = structlog.get_logger(__name__)
# So many chunks may wait to be stored; then the loop waits, so that an outage of Redis cannot fill the memory.
_MAX_PENDING_CHUNKS = 512


class Journal:
    """The one writer of a session's trajectory while this router owns it; `show` gets chunks once they are stored."""

    def __init__(
        self,
        store: TrajectoryStore,
        name: str,
        owned: Owned,
        length: int,
        usage: Usage,
        show: Callable[[list[Chunk]], None],
    ) -> None:
        self._store = store
        self._name = name
        self._owned = owned
        self._show = show
        self.length = length
        # All that this journal stored, in case a Redis that crashed has lost the end of it.
        self._stored: list[Chunk] = []
        # Stored with the chunks that it counts, never ahead of them: whoever goes on after a crash adds to it.
        self._usage = usage.copy()
        self._pending: list[tuple[Chunk, Usage]] = []
        self._closing = False
        self._is_quiet = True  # nothing was appended since `look`
        self.on_cancelled: Callable[[], None] | None = None  # called when the store says that the answer is to end
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self.task = asyncio.create_task(self._write(), name=f"journal-{name}")

    def add(self, chunk: Chunk, usage: Usage) -> None:
        """Takes a chunk; `usage` is what the answer took up to its end.

        An empty chunk, which says that a model begins to write, is stored with the next token or not at all: until then
        the switch can be decided anew.
        """
        self._pending.append((chunk, usage.copy()))
        if chunk.tokens:
            self._work.set()
        if len(self._pending) >= _MAX_PENDING_CHUNKS:
            self._room.clear()

    @property
    def has_room(self) -> bool:
        return self._room.is_set()

    async def room(self) -> None:
        """Waits until another chunk can be added. Should the journal fail, its owner must cancel whoever waits here."""
        await self._room.wait()

    def look(self) -> None:
        """Asks the store whether the session is still ours and wanted, if no append has told since the last call."""
        if self._is_quiet:
            self._work.set()
        self._is_quiet = True

    async def close(self) -> None:
        """Stops the task and waits until no append is under way. Raises what the store raised."""
        self._closing = True
        self._work.set()
        await self.task

    async def finish(self, reason: FinishReason, usage: Usage) -> None:
        await self.close()
        self._usage = usage.copy()
        await self._flush(State.FINISHED, reason, keep_usage=True)

    async def interrupt(self, patience_s: float | None = None) -> None:
        """Stores what is left and marks the trajectory as interrupted, so that any router may go on with it at once.

        Works after the task has failed, too. Raises what the store raises.
        """
        if not self.task.done():
            await self.close()
        elif not self.task.cancelled():
            self.task.exception()  # the store will say it again
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
        # Up to the last that has tokens; if that fails, they stay pending.
        num = max((index + 1 for index, (chunk, _) in enumerate(self._pending) if chunk.tokens), default=0)
        ready = self._pending[:num]
        usage = ready[-1][1] if ready and not keep_usage else self._usage
        chunks = joined(chunk for chunk, _ in ready)
        append, told = partial(self._store.append, self._name, self._owned), (usage, state, finish, patience_s)
        self._is_quiet = not chunks
        try:
            is_cancelled = await append(self.length, chunks, *told)
        except Behind as error:
            # Not the same append again: what the store lost goes first. A second loss meanwhile is the caller's to see.
            is_cancelled = await append(error.length, self._since(error.length, chunks), *told)
        del self._pending[:num]
        self._usage = usage
        self._stored += chunks
        self.length += sum(len(chunk.tokens) for chunk in chunks)
        self._room.set()
        if chunks:
            self._show(chunks)
        if is_cancelled and self.on_cancelled is not None:
            self.on_cancelled()

    def _since(self, length: int, chunks: list[Chunk]) -> list[Chunk]:
        """What a store with `length` tokens lacks of all that was stored and of `chunks`, which follow.

        It may have lost the end, or have more than thought, by an append whose reply never came.
        Raises RstitchError (DATA_LOSS) if tokens are missing that another router wrote: they are not known here.
        """
        known = self._stored + chunks
        first, end = (known[0].position, known[-1].end) if known else (self.length, self.length)
        if not first <= length <= end:
            raise lost(self._name, length, self.length, "let Redis write its file at every change")
        if length < self.length:
            _log.warning("redis lost the end of a trajectory, written again", length=length, lost=self.length - length)
        # An empty chunk was stored together with the token at its position.
        return [c.since(length) for c in known if c.end > length or (not c.tokens and c.position >= length)]
