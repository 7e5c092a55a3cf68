"""What is told of an answer's tokens beside their entropies, and how Redis keeps it. It knows no text.

One after another, little-endian, without a header; n alternatives:

    uint8 flags | float32 logprob | n * (uint32 token, float32 logprob)

The lower five bits of the flags are n, 0x80 is set where there is a logprob.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rstitch.limits import MAX_ALTERNATIVES, MAX_TOP_LOGPROBS

# What else could stand where a token was chosen: (token, logprob), the most probable first.
Alternatives: TypeAlias = tuple[tuple[int, float], ...]

_FIXED = struct.Struct("<Bf")
_HAS_LOGPROB, _NUM = 0x80, 0x1F
assert MAX_TOP_LOGPROBS <= _NUM


@dataclass(frozen=True, slots=True)
class Detail:
    """One token in detail: natural-log probabilities at temperature 1, None where none was computed."""

    logprob: float | None = None
    alternatives: Alternatives = ()


UNKNOWN = Detail()


def details_of(
    logprobs: Sequence[float | None], alternatives: Sequence[Alternatives], index: int, top_logprobs: int
) -> tuple[Detail, ...]:
    """Returns the details of tokens from the `index`-th one of an answer on, of the first ones with alternatives.

    How many have them is a function of `top_logprobs` alone, so that all routers keep the same.
    """
    left = MAX_ALTERNATIVES // top_logprobs - index if top_logprobs else 0
    found = (*alternatives[: max(0, left)], *[()] * len(logprobs))
    return tuple(map(Detail, logprobs, found[: len(logprobs)]))


def pack_details(details: Iterable[Detail]) -> bytes:
    """The details as bytes, in the layout that the module describes."""
    made = bytearray()
    for detail in details:
        has_logprob = detail.logprob is not None
        made += _FIXED.pack(len(detail.alternatives) | has_logprob * _HAS_LOGPROB, detail.logprob or 0.0)
        for token, logprob in detail.alternatives:
            made += struct.pack("<If", token, logprob)
    return bytes(made)


def unpack_details(data: bytes) -> tuple[Detail, ...]:
    """The details that `pack_details` made `data` of."""
    made: list[Detail] = []
    at = 0
    while at < len(data):
        flags, logprob = _FIXED.unpack_from(data, at)
        at += _FIXED.size
        end = at + 8 * (flags & _NUM)
        others = tuple(struct.iter_unpack("<If", data[at:end]))
        at = end
        made.append(Detail(logprob if flags & _HAS_LOGPROB else None, others))
    return tuple(made)


def cut_details(data: bytes, begin: int, end: int | None = None) -> bytes:
    """The packed details of tokens [begin, end) of those that `data` has, as of a slice; nothing is unpacked."""
    first = _offset(data, begin)
    return data[first:] if end is None else data[first : _offset(data, end - begin, first)]


def unknown_details(num: int) -> bytes:
    """Packed details of so many tokens of which nothing is known."""
    return pack_details((UNKNOWN,)) * num


def _offset(data: bytes, num: int, at: int = 0) -> int:
    """Where the details end that are the first `num` from byte `at` on."""
    while num > 0 and at < len(data):
        at += _FIXED.size + 8 * (data[at] & _NUM)
        num -= 1
    return at
