"""The pool of KV pages: who may write where. Numbers only: it does not know what a page holds, or for whom."""

from __future__ import annotations


class PagePool:
    """Hands out page numbers in [0, num_pages) and takes them back."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self._free = list(range(num_pages - 1, -1, -1))

    @property
    def num_free(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)

    def pages_for(self, num_tokens: int) -> int:
        """Pages that hold `num_tokens` tokens."""
        return -(-num_tokens // self.page_size)

    def allocate(self, count: int) -> list[int]:
        """Takes `count` pages; the caller has checked `num_free`."""
        assert count <= len(self._free), "allocate() without checking num_free"
        taken = self._free[len(self._free) - count :]
        del self._free[len(self._free) - count :]
        return taken

    def release(self, pages: list[int]) -> None:
        """Gives pages back."""
        self._free.extend(pages)

    def check_integrity(self, held: list[int]) -> None:
        """Raises AssertionError unless `held` and the free pages are each page exactly once."""
        every = sorted(held + self._free)
        assert every == list(range(self.num_pages)), (
            f"pages leaked or held twice: {len(held)} held, {len(self._free)} free, {self.num_pages} in all"
        )
