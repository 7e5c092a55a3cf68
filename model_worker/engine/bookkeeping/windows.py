"""Which pages have room in the layers that see a window only, of which there are fewer. No torch.

A session's pages are one table for all layers. Layers that look back a bounded number of tokens need the last of these
pages alone: a page gives its room there back once no token to come, nor one that a rollback brings back, looks so far.

    position      0 ........................................ num_computed
    page table    7    8    3    4    11   12   13   14
    with room                         2    5    0    1            windowed layers; 7, 8, 3, 4 gave theirs back
                                      |-- MARGIN --|-- window --|
"""

from __future__ import annotations

from array import array

# So many tokens stay beside those that a layer sees: a rollback by up to half of them finds what it needs, and kernels
# read up to half of them before the first key that counts, in whole blocks.
MARGIN = 128


class WindowMap:
    """Rooms of windowed layers, numbered [0, num_rooms), by the page that has them; `num_rooms` itself is scratch."""

    def __init__(self, num_pages: int, num_rooms: int, page_size: int, most_keys: int) -> None:
        self.num_rooms = num_rooms
        self.most_keys = most_keys  # that a token sees in any of these layers
        self._page_size = page_size
        # Of a page without a room: one that may be read, and is masked. Before the first is taken pages differ, so that
        # a trial of several rows has room.
        self.rooms = array("q", [page % num_rooms for page in range(num_pages)] + [num_rooms])  # int64, by page
        self._has = bytearray(num_pages)
        self._free = list(range(num_rooms - 1, -1, -1))

    @property
    def num_spare(self) -> int:
        return len(self._free)

    def has(self, page: int) -> bool:
        return bool(self._has[page])

    def assign(self, page: int) -> None:
        """Gives a page a room; there must be one."""
        assert not self._has[page], f"page {page} has a room"
        self.rooms[page], self._has[page] = self._free.pop(), 1

    def drop(self, page: int) -> None:
        """Takes a page's room back, if it has one."""
        if self._has[page]:
            self._free.append(self.rooms[page])
            self.rooms[page], self._has[page] = self.num_rooms, 0

    def first_needed(self, position: int) -> int:
        """Returns the place in a page table from which on a session needs rooms, to go on from `position`."""
        return max(0, position - self.most_keys - MARGIN // 2) // self._page_size

    def first_kept(self, num_computed: int) -> int:
        """Returns the place from which on it keeps them, so that it can go back some way as well."""
        return max(0, num_computed - self.most_keys - MARGIN) // self._page_size

    def check_integrity(self) -> None:
        """Raises AssertionError if a room is nobody's, or two pages'."""
        taken = [self.rooms[page] for page in range(len(self._has)) if self._has[page]]
        assert sorted(taken + self._free) == list(range(self.num_rooms)), "rooms of windowed layers leaked or doubled"
