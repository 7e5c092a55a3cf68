"""Which page holds which tokens after which others: what sessions that begin alike find each other's pages by.

A page is found by the digest of its tokens chained to that of everything before it, which begins with a salt, and is
then compared token by token: a digest alone decides nothing. (Hash chains by page: vLLM's automatic prefix caching; a
page is told apart by its tokens as in SGLang's radix tree, arXiv 2312.07104.) It does not know who holds a page.
"""

from __future__ import annotations

from hashlib import blake2b


def root(salt: str) -> bytes:
    """Returns the digest that chains under a salt begin with; those of two salts never meet."""
    return blake2b(salt.encode(), digest_size=32, person=b"salt").digest()


def chained(before: bytes, tokens: bytes) -> bytes:
    """Returns the digest of a page's tokens (uint32 each) after those that `before` is the digest of."""
    return blake2b(before + tokens, digest_size=32, person=b"page").digest()


class PrefixIndex:
    """Full pages by what they hold. A page has one place in it at most; so has a digest, which the first page keeps."""

    def __init__(self) -> None:
        self._pages: dict[bytes, int] = {}
        self._entries: dict[int, tuple[bytes, bytes]] = {}  # by page: its digest, its tokens

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, page: int) -> bool:
        return page in self._entries

    def find(self, digest: bytes, tokens: bytes) -> int | None:
        """Returns the page that holds just these tokens; None if there is none."""
        page = self._pages.get(digest)
        return page if page is not None and self._entries[page][1] == tokens else None

    def page_of(self, digest: bytes) -> int | None:
        """Returns the page under a digest, whatever it holds."""
        return self._pages.get(digest)

    def tokens_of(self, page: int) -> bytes:
        """Returns the tokens that a page of the index holds."""
        return self._entries[page][1]

    def add(self, page: int, digest: bytes, tokens: bytes) -> None:
        """Takes in a page that was just filled, unless another one holds the same."""
        if digest not in self._pages and page not in self._entries:
            self._pages[digest] = page
            self._entries[page] = digest, tokens

    def remove(self, page: int) -> None:
        """Forgets a page, which will be written to or holds nothing of use; one that is not here is left alone."""
        entry = self._entries.pop(page, None)
        if entry is not None:
            del self._pages[entry[0]]
