"""The pool of KV pages: who may write where. Numbers only: it does not know what a page holds, or for whom.

Any free page will do for any session, so nothing is ever refused for want of a *neighbouring* page. But attention reads
pages that follow one another in place, without copying them, and rows at equal distances all at once. So the pool is
cut into lanes, a first page is given at the start of a lane, lanes are given out far from each other first (bit
reversal: 0, 1/2, 1/4, 3/4, ...), and later pages follow the one before while they can.

With 8 lanes the sessions A to E, which come in this order, find their places so:

    lane   0    1    2    3    4    5    6    7
           A    E    C         B         D

A may grow over lane 1 until E comes: each lane is as far from its neighbours as the number of sessions allows.
"""

from __future__ import annotations

_MAX_LANES = 256
_MIN_LANE_PAGES = 16


class PagePool:
    """Hands out page numbers in [0, num_pages) and takes them back."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self.num_free = num_pages
        self._is_free = bytearray(b"\1" * num_pages)
        bits = max(0, min(_MAX_LANES, num_pages // _MIN_LANE_PAGES).bit_length() - 1)
        self._lane_pages = num_pages >> bits
        self._lane_starts = [_reversed(lane, bits) * self._lane_pages for lane in range(1 << bits)]

    def pages_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.page_size)

    def allocate(self, count: int, after: int | None = None) -> list[int]:
        """Hands out `count` pages that follow page `after` and one another where those are free."""
        assert count <= self.num_free, "allocate() without checking num_free"
        pages: list[int] = []
        for _ in range(count):
            page = self._first() if after is None else after + 1
            if page >= self.num_pages or not self._is_free[page]:
                page = self._is_free.find(1)  # scattered from here on: correct, and slower to read
            self._is_free[page] = 0
            pages.append(page)
            after = page
        self.num_free -= count
        return pages

    def release(self, pages: list[int]) -> None:
        for page in pages:
            assert not self._is_free[page], f"page {page} given back twice"
            self._is_free[page] = 1
        self.num_free += len(pages)

    def check_integrity(self, held: list[int]) -> None:
        """Raises AssertionError unless `held` and the free pages are each page exactly once."""
        free = [page for page in range(self.num_pages) if self._is_free[page]]
        assert self.num_free == len(free), f"{self.num_free} pages counted as free, {len(free)} are"
        assert sorted(held + free) == list(range(self.num_pages)), (
            f"pages leaked or held twice: {len(held)} held, {len(free)} free, {self.num_pages} in all"
        )

    def _first(self) -> int:
        """Returns the start of a free lane, else a lane's start that is free, else 0, which may not be free."""
        lane = self._lane_pages
        for start in self._lane_starts:
            if self._is_free.find(0, start, start + lane) < 0:
                return start
        return next((start for start in self._lane_starts if self._is_free[start]), 0)


def _reversed(number: int, bits: int) -> int:
    return int(f"{number:0{bits}b}"[::-1], 2) if bits else 0
