"""Bytes of a request into its message: what is too large, too dense or no message is refused, and never raises.

The protobuf library parses in one piece and lets nobody else compute meanwhile. A message of the largest size with one
text in it takes some milliseconds; one that is made of millions of empty parts takes a quarter of a second and twenty
times its size in memory. So a large one is looked through first, beside everything else, and refused if it has more
parts than anybody sends. It knows no service.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import grpc
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from rstitch.errors import RstitchError, invalid

# Bytes from which on a message is a large one; what fits below is parsed in milliseconds whatever it is.
_LARGE = 256 * 1024
# Bytes of large messages that are read or wait for it, but that one is always taken.
_MAX_WAITING = 48 * 1024 * 1024
# Parts of a message: fields with a value, each of a repeated one, and those of the messages in it.
_PAUSE_EVERY, _PAUSE_S = 4096, 0.0005
MAX_PARTS = 48 * _PAUSE_EVERY
# Bytes of numbers that come packed, such as token ids.
_MAX_PACKED = 8 * 1024 * 1024

Parse = Callable[[bytes], Any]


class Large:
    """Lets the large messages of a server through one at a time, in the order in which they came."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._waiting = 0  # bytes

    async def check(self, data: bytes, descriptor: Descriptor) -> None:
        """Waits for a message's turn and looks it through, off the loop.

        Raises RstitchError (RESOURCE_EXHAUSTED) if too many are before it, or it has too many parts.
        """
        if self._waiting and self._waiting + len(data) > _MAX_WAITING:
            told = f"other large messages are still being read, {self._waiting >> 20} MiB."
            raise _too_large("TOO_MUCH_AT_ONCE", told, retry_after_s=1.0)
        self._waiting += len(data)
        try:
            await self._turn.acquire()
        except BaseException:
            self._waiting -= len(data)
            raise
        reading = asyncio.get_running_loop().run_in_executor(None, check_parts, data, descriptor)
        # A call that is cancelled does not stop the thread: the message is there, and the turn taken, until it is done.
        reading.add_done_callback(lambda _: self._done(len(data)))
        await asyncio.shield(reading)

    def _done(self, num_bytes: int) -> None:
        self._waiting -= num_bytes
        self._turn.release()


class Parser:
    """Parses the requests of one method. Raises RstitchError for what no handler should see."""

    def __init__(self, parse: Parse | None, max_message_bytes: int, large: Large) -> None:
        self._parse = parse
        self._max_message_bytes = max_message_bytes
        self._large = large
        message = getattr(parse, "__self__", None)  # of its method FromString
        self._descriptor: Descriptor | None = getattr(message, "DESCRIPTOR", None)

    async def __call__(self, data: bytes) -> Any:
        if len(data) > self._max_message_bytes:
            told = f"the message has {len(data)} bytes, the limit is {self._max_message_bytes}."
            raise _too_large("MESSAGE_TOO_LARGE", told)
        if len(data) <= _LARGE or self._descriptor is None:
            return self._parsed(data)
        await self._large.check(data, self._descriptor)
        return self._parsed(data)

    def _parsed(self, data: bytes) -> Any:
        try:
            return self._parse(data) if self._parse is not None else data
        except Exception:  # noqa: BLE001 - what protobuf raises differs between its backends
            remedy = "Encode it with the contract in protos/ and text as UTF-8."
            # Without a cause: what the library says of it may quote it.
            raise invalid("request", "the message does not parse.", remedy, "MALFORMED_MESSAGE") from None


def check_parts(data: bytes, descriptor: Descriptor) -> None:
    """Raises RstitchError (RESOURCE_EXHAUSTED) if a message has more parts or numbers than anybody sends.

    What is no message at all is left to the parser; the parts before the fault count, as it makes them before it finds
    that. It is Python from end to end and pauses, so that whoever waits for the interpreter has it within a millisecond
    or two.
    """
    left, packed = MAX_PARTS, _MAX_PACKED
    waiting = [(0, len(data), descriptor)]
    while waiting:
        at, end, kind = waiting.pop()
        fields = _fields(kind)
        while at < end:
            left -= 1
            if not left % _PAUSE_EVERY:
                if left < 0:
                    raise _too_large("TOO_MANY_PARTS", f"the message has more than {MAX_PARTS} parts.")
                time.sleep(_PAUSE_S)
            tag = data[at]
            at += 1
            if tag > 127:
                tag, at = _varint(data, at - 1, end)
            wire = tag & 7
            if wire == 2:
                size, at = _varint(data, at, end)
                if at + size > end:
                    break
                field = fields.get(tag >> 3)
                if field is _PACKED:
                    packed -= size
                    if packed < 0:
                        raise _too_large("TOO_MANY_PARTS", f"the message has more than {_MAX_PACKED} numbers.")
                elif field is not None and size:
                    waiting.append((at, at + size, field))
                at += size
            elif wire == 0:
                _, at = _varint(data, at, end)
            elif wire == 1:
                at += 8
            elif wire == 5:
                at += 4
            elif wire > 5:
                break
            # Fields of a group follow it as if they were ours.


_PACKED = object()


@cache
def _fields(kind: Descriptor) -> dict[int, Any]:
    """By number, the fields that come with a length: the descriptor of a message's, `_PACKED` for numbers."""
    found: dict[int, Any] = {}
    for field in kind.fields:
        if field.message_type is not None:
            found[field.number] = field.message_type
        elif field.type not in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
            found[field.number] = _PACKED
    return found


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The number that begins there, and where it ends; one without an end ends with its message."""
    if at < end and data[at] < 128:
        return data[at], at + 1
    value = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128 or shift > 63:
            return value, at
        shift += 7
    return value, end


def _too_large(reason: str, told: str, retry_after_s: float | None = None) -> RstitchError:
    code, remedy = grpc.StatusCode.RESOURCE_EXHAUSTED, "Send less at once."
    return RstitchError(code, reason, told, remedy=remedy, retry_after_s=retry_after_s)
