"""A transport that sends what is written in one turn of the event loop in one piece, as system calls are what costs.

It knows no HTTP.
"""

from __future__ import annotations

import asyncio
from typing import Any

# What is waiting is sent at once where it is more: the transport's own buffer, which bounds writers, must see it.
_MOST = 1 << 16


class Corked(asyncio.Transport):
    """Stands in for another transport; what is written goes out before anything that is done to the connection."""

    def __init__(self, inner: asyncio.Transport) -> None:
        super().__init__()
        self._inner = inner
        self._loop = asyncio.get_running_loop()
        self._waiting: list[bytes | bytearray | memoryview[int]] = []
        self._size = 0

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if not data:
            return
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(data)
        self._size += len(data)
        if self._size >= _MOST:
            self._flush()

    def write_eof(self) -> None:
        self._flush()
        self._inner.write_eof()

    def close(self) -> None:
        self._flush()
        self._inner.close()

    def abort(self) -> None:
        self._waiting, self._size = [], 0
        self._inner.abort()

    def get_write_buffer_size(self) -> int:
        return self._size + self._inner.get_write_buffer_size()

    def can_write_eof(self) -> bool:
        return self._inner.can_write_eof()

    def is_closing(self) -> bool:
        return self._inner.is_closing()

    def is_reading(self) -> bool:
        return self._inner.is_reading()

    def pause_reading(self) -> None:
        self._inner.pause_reading()

    def resume_reading(self) -> None:
        self._inner.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._inner.get_extra_info(name, default)

    def _flush(self) -> None:
        waiting, self._waiting, self._size = self._waiting, [], 0
        if waiting:
            self._inner.write(waiting[0] if len(waiting) == 1 else b"".join(waiting))
