"""Tokens and entropies as bytes, and the checksum of a prefix. It knows nothing else.

Four bytes a value, little-endian whatever the machine, one value behind the other and no header:

    tokens     uint32   t0 t0 t0 t0  t1 t1 t1 t1  ...
    entropies  float32  e0 e0 e0 e0  e1 e1 e1 e1  ...

So a chunk of n tokens is 8n bytes, its pieces can be put behind each other, and the checksum of a prefix can go on from
that of a shorter one.
"""

from __future__ import annotations

import sys
import zlib
from array import array
from typing import Any


def pack(values: array[Any]) -> bytes:
    """The values as bytes, in the layout that the module describes."""
    if sys.byteorder == "big":  # a copy: the caller's array stays as it is
        values = values[:]
        values.byteswap()
    return values.tobytes()


def unpack(typecode: str, data: bytes) -> array[Any]:
    """The values that `pack` made `data` of; `typecode` is "I" for tokens, "f" for entropies."""
    values: array[Any] = array(typecode)
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    return values


class PrefixChecksum:
    """CRC-32 of the tokens before a position; workers compare it with that of the tokens that they hold.

    It remembers where it was asked last, so that going forward through an answer reads each token once.
    """

    __slots__ = ("_checksum", "_position", "_tokens")

    def __init__(self, tokens: array[int]) -> None:
        self._tokens = tokens
        self._position = 0
        self._checksum = 0

    def changed_from(self, position: int) -> None:
        """Takes note that tokens from a position on are others now."""
        if position < self._position:
            self._position, self._checksum = 0, 0

    def at(self, position: int) -> int:
        """The checksum of tokens [0, position). `tokens` may have grown since the last call."""
        if position < self._position:  # CRC-32 cannot go back: the worker holds fewer tokens than it did
            self._position, self._checksum = 0, 0
        if position > self._position:
            self._checksum = zlib.crc32(pack(self._tokens[self._position : position]), self._checksum)
            self._position = position
        return self._checksum
