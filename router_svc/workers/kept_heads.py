"""Heads that runs of a role will name, kept for whichever of its workers says that it does not know one."""

from __future__ import annotations

_MAX_HEADS = 64


class KeptHeads:
    """The heads that were kept last, by name."""

    def __init__(self) -> None:
        self._heads: dict[str, bytes] = {}  # the one kept last at the end

    def keep(self, name: str, data: bytes) -> None:
        self._heads.pop(name, None)
        self._heads[name] = data
        if len(self._heads) > _MAX_HEADS:
            del self._heads[next(iter(self._heads))]

    def get(self, name: str) -> bytes:
        """The head's file; b"" if it was not kept, or too many were since."""
        return self._heads.get(name, b"")
