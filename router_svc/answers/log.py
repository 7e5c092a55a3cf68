"""An answer as its readers see it: the chunks that are stored, and in the end the outcome. Many may follow it at once.

It does not know whether the answer is being written here or was read from the store.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from router_svc.policies.answer_settings import AnswerSettings
from router_svc.text.tokenizer import Tokenizer
from router_svc.trajectory.types import Chunk, Finished, Model, Source, joined
from rstitch.errors import RstitchError

# The most chunks that a reader is given at once, so that one far behind does not hold up the loop.
_AT_ONCE = 64


class AnswerLog:
    """Chunks of one answer, growing until there is an outcome.

    `context` are the tokens that its text goes on with, and `tokenizers` read it, by writer.
    """

    def __init__(
        self,
        session_id: str,
        settings: AnswerSettings,
        context: array[int],
        tokenizers: Mapping[Model, Tokenizer],
        chunks: list[Chunk],
        outcome: Finished | RstitchError | None = None,
    ) -> None:
        self.session_id = session_id
        self.settings = settings
        self.context = context
        self.tokenizers = tokenizers
        self.outcome = outcome
        self._chunks = chunks
        self._waiting: list[asyncio.Future[None]] = []  # readers, until there is more
        self._num_readers = 0
        self.on_deserted: Callable[[], None] | None = None
        self.on_reader: Callable[[], None] | None = None
        self.on_shown: Callable[[Sequence[Chunk]], None] | None = None  # told of chunks before readers are

    @property
    def length(self) -> int:
        """Tokens of the session, as far as readers may know."""
        return self._chunks[-1].end if self._chunks else self.settings.start

    @property
    def chunks(self) -> Sequence[Chunk]:
        """All of the answer so far, as it is stored."""
        return self._chunks

    def show(self, chunks: list[Chunk]) -> None:
        """Makes chunks visible to readers. Call it only once Redis has them."""
        self._chunks += chunks
        if self.on_shown is not None:
            self.on_shown(chunks)
        self._wake()

    def end(self, outcome: Finished | RstitchError) -> None:
        self.outcome = outcome
        self._wake()

    async def follow(self, gather_s: float = 0.0) -> AsyncIterator[list[Chunk]]:
        """All chunks from the first one on, joined where a reader is behind, until there is an outcome.

        They are held back for up to `gather_s`, so that more of them come at once.
        """
        seen = 0
        while True:
            if seen < len(self._chunks):
                if gather_s:
                    await self._gather(seen, gather_s)
                fresh = self._chunks[seen : seen + _AT_ONCE]
                seen += len(fresh)
                yield joined(fresh) if len(fresh) > 1 else fresh
                if seen < len(self._chunks):
                    await asyncio.sleep(0)  # a reader who is far behind must not hold up the others
            elif self.outcome is not None:
                return
            else:
                await self._more()

    async def _gather(self, seen: int, seconds: float) -> None:
        """Waits until a reader who has seen so many chunks has many before him, or the answer or the time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.outcome is None and len(self._chunks) - seen < _AT_ONCE:
                    await self._more()

    async def _more(self) -> None:
        """Waits until there are more chunks, or the outcome."""
        grown: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(grown)
        await grown

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Around following: an answer that nobody reads is not written for ever."""
        self._num_readers += 1
        if self.on_reader is not None:
            self.on_reader()
        try:
            yield
        finally:
            self._num_readers -= 1
            if self._num_readers == 0 and self.on_deserted is not None:
                self.on_deserted()

    def was_left(self) -> None:
        """Whoever was to read it has left before it began to."""
        with self.reading():
            pass

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for grown in waiting:
            if not grown.done():  # who was cancelled waits no more
                grown.set_result(None)


def chunks_of_answer(chunks: Iterable[Chunk], start: int) -> list[Chunk]:
    """Picks the chunks of the answer that begins at position `start` out of a trajectory."""
    return [chunk for chunk in chunks if chunk.position >= start and chunk.source is not Source.PROMPT]
