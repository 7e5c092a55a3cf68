"""A session: tokens, and what a KV cache holds of them. No torch; who has which page is the table's business."""

from __future__ import annotations

import zlib
from array import array
from dataclasses import dataclass, field

from model_worker.engine.bookkeeping import prefixes


@dataclass(slots=True, eq=False)
class SavedState:
    """The states of recurrent and convolution layers after a session's first `position` tokens, and where they are."""

    position: int
    slot: int
    kept: bool = False  # also once the session has gone on


@dataclass(slots=True, eq=False)
class Session:
    """Tokens of one conversation on this worker.

    Invariant: 0 <= num_computed <= num_shallow <= len(tokens), and `pages` has room for `num_shallow` tokens.
    """

    #   tokens   0 ......... num_computed ......... num_shallow ......... len(tokens)
    #   KV       in all layers            in the shared layers   none yet
    #
    # Only a model whose first layers are the SLM has a part in the middle; elsewhere num_shallow is num_computed.

    session_id: str
    tokens: array[int] = field(default_factory=lambda: array("I"))
    num_computed: int = 0
    shallow_computed: int = 0
    pages: list[int] = field(default_factory=list)
    states: list[SavedState] = field(default_factory=list)  # by position; empty where no layer has any
    contiguous: bool = True  # each page follows the one before
    running: bool = False
    salt: str | None = None  # only sessions of one salt have pages in common; None: its pages are its own
    num_left: int = 0  # of its first pages, how many have left the layers that see a window only
    num_offered: int = 0  # of its first pages, how many were offered to others
    last_used: int = 0  # the table's moment
    _reader: object = None  # who looked at the tokens last
    _num_read: int = 0  # so many of them are as it saw them
    _digests: list[bytes] = field(default_factory=list)  # of its first pages, as far as they were asked for

    @property
    def held(self) -> int:
        return len(self.tokens)

    @property
    def num_shallow(self) -> int:
        """Number of tokens that the shared layers have computed, by a run of either role."""
        return max(self.num_computed, self.shallow_computed)

    @property
    def num_pending(self) -> int:
        return len(self.tokens) - self.num_computed

    def cut(self, position: int) -> None:
        """Drops the tokens from `position` on. Nothing else takes any away."""
        del self.tokens[position:]
        self._num_read = min(self._num_read, position)

    def num_same(self, reader: object) -> int:
        """Returns how many of the tokens are as they were when this reader called last; 0 if another did since."""
        same = self._num_read if self._reader is reader else 0
        self._reader, self._num_read = reader, len(self.tokens)
        return same

    def checksum(self, position: int) -> int:
        """Returns the CRC-32 of tokens [0, position) as little-endian uint32."""
        return zlib.crc32(memoryview(self.tokens)[:position].cast("B"))

    def page_tokens(self, place: int, page_size: int) -> bytes:
        """Returns the tokens of its page number `place`, which must all be held."""
        return memoryview(self.tokens)[place * page_size : (place + 1) * page_size].tobytes()

    def digest(self, place: int, page_size: int) -> bytes:
        """Returns the digest of all tokens up to the end of page number `place`, under its salt."""
        assert self.salt is not None, "nobody looks for its pages"
        while len(self._digests) <= place:
            before = self._digests[-1] if self._digests else prefixes.root(self.salt)
            self._digests.append(prefixes.chained(before, self.page_tokens(len(self._digests), page_size)))
        return self._digests[place]

    def known_digests(self) -> list[bytes]:
        """Returns the digests that were asked for."""
        return self._digests

    def changed_from(self, place: int) -> None:
        """Notes that the tokens of pages from number `place` on are others now, or their KV is gone."""
        del self._digests[place:]
        self.num_offered = min(self.num_offered, place)


def is_contiguous(pages: list[int]) -> bool:
    """Says whether each page follows the one before."""
    return not pages or pages == list(range(pages[0], pages[0] + len(pages)))
