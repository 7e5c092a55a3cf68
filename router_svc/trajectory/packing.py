"""Tokens and entropies as bytes, and the checksum of a prefix. It knows nothing else."""

from __future__ import annotations

import sys
import zlib
from array import array
from typing import Any


def pack(values: array[Any]) -> bytes:
    """Little-endian bytes, four per value."""
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values.tobytes()


def unpack(typecode: str, data: bytes) -> array[Any]:
    """The inverse of `pack`; `typecode` is "I" or "f"."""
    values: array[Any] = array(typecode)
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    return values


class PrefixChecksum:
    """CRC-32 of the tokens before a position, as the workers check it. Moving forward costs the new tokens only."""

    __slots__ = ("_checksum", "_position", "_tokens")

    def __init__(self, tokens: array[int]) -> None:
        self._tokens = tokens
        self._position = 0
        self._checksum = 0

    def at(self, position: int) -> int:
        """Of tokens [0, position); `tokens` may have grown since, what was there must not have changed."""
        if position < self._position:
            self._position, self._checksum = 0, 0
        if position > self._position:
            self._checksum = zlib.crc32(pack(self._tokens[self._position : position]), self._checksum)
            self._position = position
        return self._checksum
