"""The pool of KV pages: who holds which, and which are kept for nobody. It knows no session and computes nothing.

A page is held by one session, by several that begin with the same tokens, or by nobody:

    blank    by nobody, holds nothing of use
    kept     by nobody, and in the index: whoever comes with its tokens may take it
    valued   kept, and more than one session has had it: it goes last, after what idle sessions have for themselves
    unclean  by nobody, and to be zeroed before anybody gets it: a forward left infinities or NaN there

Any page will do for any session, so nothing is ever refused for want of a *neighbouring* page. But attention on a CPU
reads pages that follow one another in place, without copying them, and rows at equal distances all at once. So the pool
is cut into lanes, a first page is given at the start of a lane, lanes are given out far from each other first (bit
reversal: 0, 1/2, 1/4, 3/4, ...), and later pages follow the one before while they can.

With 8 lanes the sessions A to E, which come in this order, find their places so:

    lane   0    1    2    3    4    5    6    7
           A    E    C         B         D

A may grow over lane 1 until E comes: each lane is as far from its neighbours as the number of sessions allows.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence

from model_worker.engine.bookkeeping.prefixes import PrefixIndex
from model_worker.engine.bookkeeping.windows import WindowMap

_MAX_LANES = 256
_MIN_LANE_PAGES = 16


class PagePool:
    """Hands out page numbers in [0, num_pages), counts who holds each, and takes them back.

    With `side_by_side` a page that follows the one before is worth more than one that was kept for longer.
    """

    # Invariants, which `check_integrity` looks at:
    #
    #   _holders[p] is how many page tables p is in; 0 exactly for blank, kept, valued and unclean pages
    #   kept and valued pages are in the index, blank and unclean ones are not
    #   `_blank` and `_spare` are maps for searching: blank pages, and blank or kept ones

    def __init__(
        self, num_pages: int, page_size: int, *, side_by_side: bool = True, windows: WindowMap | None = None
    ) -> None:
        self.windows = windows  # a page that is handed out has a room there; None: all layers see everything
        self.num_pages = num_pages
        self.page_size = page_size
        self.prefixes = PrefixIndex()
        self.num_dropped = 0  # pages that were kept, and given away
        self._side_by_side = side_by_side
        self._holders = [0] * num_pages
        self._was_shared = bytearray(num_pages)
        self._last_used = [0] * num_pages  # by a session that has left it
        self._blank = bytearray(b"\1" * num_pages)
        self._spare = bytearray(b"\1" * num_pages)
        self._kept: OrderedDict[int, None] = OrderedDict()  # the one to give away first at the front
        self._valued: OrderedDict[int, int] = OrderedDict()  # likewise; with when it was last used
        self._tainted: set[int] = set()  # to be zeroed when their last holder leaves
        self._unclean: list[int] = []
        bits = max(0, min(_MAX_LANES, num_pages // _MIN_LANE_PAGES).bit_length() - 1)
        self._lane_pages = num_pages >> bits
        self._lane_starts = [_reversed(lane, bits) * self._lane_pages for lane in range(1 << bits)]
        self._num_spare = num_pages
        self.num_shared = 0  # pages that more than one session holds

    @property
    def num_free(self) -> int:
        """Number of pages that nobody holds."""
        return self._num_spare + len(self._valued) + len(self._unclean)

    @property
    def num_spare(self) -> int:
        """Number of pages that `allocate` may give out."""
        return self._num_spare if self.windows is None else min(self._num_spare, self.windows.num_spare)

    @property
    def num_unclean(self) -> int:
        """Number of pages that nobody holds and that are to be zeroed first."""
        return len(self._unclean)

    @property
    def num_kept(self) -> int:
        """Number of pages that nobody holds and that the index still knows."""
        return len(self._kept) + len(self._valued)

    @property
    def oldest_valued(self) -> int | None:
        """The moment at which the valued page that goes next was last used; None if there is none."""
        return next(iter(self._valued.values()), None)

    def pages_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.page_size)

    def num_holders(self, page: int) -> int:
        return self._holders[page]

    def may_be_written(self, page: int) -> bool:
        """Whether a page is held by one session and nobody else finds it: only then may anything be written there."""
        return self._holders[page] == 1 and page not in self.prefixes

    def allocate(self, count: int, after: int | None = None) -> list[int]:
        """Hands out `count` pages that follow page `after` and one another where those are spare."""
        assert count <= self.num_spare, "allocate() without checking num_spare"
        pages: list[int] = []
        for _ in range(count):
            after = self._next(after)
            self.num_dropped += after in self._kept
            self._take_spare(after)
            self.prefixes.remove(after)
            self._was_shared[after] = self._last_used[after] = 0
            self._holders[after] = 1
            if self.windows is not None:
                self.windows.assign(after)
            pages.append(after)
        return pages

    def offer(self, page: int, digest: bytes, tokens: bytes) -> None:
        """Puts a page that was filled into the index."""
        if page not in self._tainted:
            self.prefixes.add(page, digest, tokens)

    def share(self, page: int) -> None:
        """Counts one more holder of a page of the index, or of one that somebody holds."""
        if self._holders[page] == 0 and self._valued.pop(page, None) is None:
            self._take_spare(page)
        self._was_shared[page] = 1
        self._holders[page] += 1
        self.num_shared += self._holders[page] == 2

    def release(self, pages: Iterable[int], last_used: int = 0) -> None:
        """Takes back pages from one holder each, who last used them at a moment; the session's last page comes first.

        A page needs those before it, so of pages that were last used at one moment the last goes first.
        """
        newest, in_order = next(reversed(self._valued.values()), 0), True
        for page in pages:
            assert self._holders[page], f"page {page} given back twice"
            self._last_used[page] = max(self._last_used[page], last_used)
            self._holders[page] -= 1
            self.num_shared -= self._holders[page] == 1
            if self._holders[page]:
                continue
            if page in self._tainted:
                self._tainted.remove(page)
                self._unclean.append(page)
            elif page not in self.prefixes:
                self._give_blank(page)
            elif self._was_shared[page]:
                self._valued[page] = moment = self._last_used[page]
                in_order, newest = in_order and moment >= newest, moment
            else:
                self._kept[page] = None
                self._spare[page] = 1
                self._num_spare += 1
        if not in_order:  # as when who was left alone is evicted after others were closed
            self._valued = OrderedDict(sorted(self._valued.items(), key=lambda item: item[1]))

    def drop_valued(self) -> None:
        """Makes the valued page that goes next a blank one."""
        page, _ = self._valued.popitem(last=False)
        self.prefixes.remove(page)
        self._give_blank(page)
        self.num_dropped += 1

    def taint(self, page: int) -> None:
        """Notes that a page holds infinities or NaN: nobody finds it, and once nobody holds it it is unclean."""
        self.prefixes.remove(page)
        if self._holders[page]:
            self._tainted.add(page)
        elif page not in self._unclean:
            if self._valued.pop(page, None) is None:
                self._take_spare(page)
            self._unclean.append(page)

    @property
    def unclean(self) -> list[int]:
        """The unclean pages, for the caller to zero before `cleaned`."""
        return self._unclean

    def cleaned(self) -> None:
        """Makes the unclean pages blank ones."""
        unclean, self._unclean = self._unclean, []
        for page in unclean:
            self._give_blank(page)

    def leave_window(self, page: int) -> None:
        """Takes back a page's room in windowed layers, unless something is there that is to be zeroed first."""
        if self.windows is not None and page not in self._tainted:
            self.windows.drop(page)

    def check_integrity(self, held: list[int]) -> None:
        """Raises AssertionError unless `held`, a page once for each holder, and the pages of nobody are all pages."""
        assert self._holders == [Counter(held)[page] for page in range(self.num_pages)], (
            f"pages leaked or counted wrong: {len(held)} held, {self.num_free} free, {self.num_pages} in all"
        )
        assert self.num_shared == sum(holders > 1 for holders in self._holders), "shared pages counted wrong"
        kept, valued, unclean = set(self._kept), set(self._valued), set(self._unclean)
        blank = {page for page in range(self.num_pages) if self._blank[page]}
        nobodys = {page for page in range(self.num_pages) if not self._holders[page]}
        assert len(kept) + len(valued) + len(unclean) + len(blank) == len(nobodys), "a page of nobody in two places"
        assert kept | valued | unclean | blank == nobodys, "a page of nobody that is nowhere"
        assert {page for page in range(self.num_pages) if self._spare[page]} == kept | blank, (
            "a wrong map of spare pages"
        )
        assert self._num_spare == len(kept | blank), f"{self._num_spare} pages counted as spare"
        assert list(self._valued.values()) == sorted(self._valued.values()), "what was used last does not go last"
        assert all(page in self.prefixes for page in kept | valued), "a page kept that nobody finds"
        assert not any(page in self.prefixes for page in blank | unclean | self._tainted), "found, and of no use"
        if self.windows is not None:
            self.windows.check_integrity()
            assert not any(self.windows.has(page) for page in blank), "a room of a page that nobody holds"

    def _next(self, after: int | None) -> int:
        """Returns the spare page to give out after page `after`."""
        maps = (self._blank, self._spare) if self._side_by_side else (self._blank,)
        if after is None:
            first = self._first(maps)
            if first is not None:
                return first
        elif after + 1 < self.num_pages and maps[-1][after + 1]:
            return after + 1
        # Scattered from here on: correct, and slower to read in place.
        page = self._blank.find(1)
        return page if page >= 0 else next(iter(self._kept))

    def _first(self, maps: Sequence[bytearray]) -> int | None:
        """Returns the start of a lane that is free by a map, else a lane's start that is; None if none is."""
        lane = self._lane_pages
        for free in maps:
            for start in self._lane_starts:
                if free.find(0, start, start + lane) < 0:
                    return start
        return next((start for start in self._lane_starts if maps[-1][start]), None)

    def _take_spare(self, page: int) -> None:
        self._kept.pop(page, None)
        self._blank[page] = self._spare[page] = 0
        self._num_spare -= 1

    def _give_blank(self, page: int) -> None:
        if self.windows is not None:
            self.windows.drop(page)
        self._was_shared[page] = 0
        self._blank[page] = self._spare[page] = 1
        self._num_spare += 1


def _reversed(number: int, bits: int) -> int:
    return int(f"{number:0{bits}b}"[::-1], 2) if bits else 0
