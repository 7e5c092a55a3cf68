"""Writes an answer into the store, in order and beside the decode loop; only what is stored is shown.

The loop adds and goes on; one append at a time is under way, with all that has come since the one before. So Redis
costs no decoding time, and a reader never sees a token that a crash could take back. An append that went well needs no
task: whoever hears of it begins the next. Errors and waiting are the task's. It knows neither models nor readers.

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
        self._is_under_way = False  # an append
        self._ended: asyncio.Future[None] | None = None  # of whoever waits until none is
        self._bug: Exception | None = None  # what `show` raised, for the task to raise
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
            self._begin()
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
            await self._no_append()
            if self._bug is not None:
                raise self._bug
            if self._closing:
                return
            self._work.clear()
            await self._flush(State.RUNNING)
            self._begin()

    def _begin(self) -> None:
        """Appends what is pending, if there are tokens, and nothing else is to be done first; returns at once."""
        if self._is_under_way or self._work.is_set() or self._closing or self.task.done():
            return
        num = self._num_ready()
        if not num:
            return
        usage, chunks = self._pending[num - 1][1], [chunk for chunk, _ in self._pending[:num]]
        chunks = joined(chunks) if num > 1 else chunks
        told = partial(self._told, num, chunks, usage)
        self._is_under_way, self._is_quiet = True, False
        try:
            self._store.append_once(self._name, self._owned, self.length, chunks, usage, told)
        except BaseException:
            self._is_under_way = False  # what cannot be sent is told by nobody
            raise

    def _told(self, num: int, chunks: list[Chunk], usage: Usage, is_cancelled: bool | None) -> None:
        """An append is over; None: the task is to find out what became of it."""
        self._is_under_way = False
        try:
            if is_cancelled is None:
                self._work.set()
            else:
                self._take_stored(num, chunks, usage, is_cancelled)
            self._begin()
        except Exception as error:  # noqa: BLE001 - a reader's fault is this answer's, and not of those beside it
            self._bug = error
            self._work.set()
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    async def _no_append(self) -> None:
        """Waits until no append is under way that nobody waits for."""
        if self._is_under_way:
            self._ended = asyncio.get_running_loop().create_future()
            await self._ended

    def _num_ready(self) -> int:
        """How many of the pending chunks are to be stored: those up to the last that has tokens."""
        num = len(self._pending)
        while num and not self._pending[num - 1][0].tokens:
            num -= 1
        return num

    async def _flush(
        self,
        state: State,
        finish: FinishReason | None = None,
        *,
        keep_usage: bool = False,
        patience_s: float | None = None,
    ) -> None:
        num = self._num_ready()  # if the append fails, they stay pending
        ready = self._pending[:num]
        usage = ready[-1][1] if ready and not keep_usage else self._usage
        chunks = joined(chunk for chunk, _ in ready)
        append, told = partial(self._store.append, self._name, self._owned), (usage, state, finish, patience_s)
        self._is_under_way, self._is_quiet = True, not chunks
        try:
            is_cancelled = await append(self.length, chunks, *told)
        except Behind as error:
            # Not the same append again: what the store lost goes first. A second loss meanwhile is the caller's to see.
            is_cancelled = await append(error.length, self._since(error.length, chunks), *told)
        finally:
            self._is_under_way = False
        self._take_stored(num, chunks, usage, is_cancelled)

    def _take_stored(self, num: int, chunks: list[Chunk], usage: Usage, is_cancelled: bool) -> None:
        """So many of the pending chunks are stored, as `chunks`: they are shown."""
        del self._pending[:num]
        self._usage = usage
        self._stored += chunks
        if chunks:
            self.length = chunks[-1].end
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
