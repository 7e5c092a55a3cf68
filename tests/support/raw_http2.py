"""As much of HTTP/2 as it takes to misuse a gRPC server: frames written by hand, and what comes back in frames."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from dataclasses import dataclass, field
from typing import Self

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
_WINDOW = 65_535


@dataclass
class RawHttp2:
    """A connection. `frames` are those that came: kind, flags, stream, content."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    frames: list[tuple[int, int, int, bytes]] = field(default_factory=list)
    closed: bool = False
    _windows: dict[int, int] = field(default_factory=lambda: {0: _WINDOW})
    _more: asyncio.Event = field(default_factory=asyncio.Event)
    _reading: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, port: int) -> Self:
        made = cls(*await asyncio.open_connection("127.0.0.1", port))
        made.writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        made.frame(SETTINGS, 0, 0)
        made._reading = asyncio.create_task(made._read())
        return made

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    def frame(self, kind: int, flags: int, stream: int, content: bytes = b"") -> None:
        head = struct.pack(">I", len(content))[1:] + bytes([kind, flags])
        self.writer.write(head + struct.pack(">I", stream) + content)

    def call(self, stream: int, path: str, **metadata: str) -> None:
        """Begins a call; its message is still to come."""
        fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x", "te": "trailers"}
        fields |= {"content-type": "application/grpc"} | {
            name.replace("_", "-"): text for name, text in metadata.items()
        }
        block = b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields.items())
        self.frame(HEADERS, END_HEADERS, stream, block)

    async def send(self, stream: int, content: bytes) -> None:
        """Sends a call's message to its end, as fast as the server takes it."""
        windows = self._windows
        windows.setdefault(stream, _WINDOW)
        while content and not self.closed:
            num = min(windows[0], windows[stream], 16_384, len(content))
            if num <= 0:
                self._more.clear()
                await self._more.wait()
                continue
            part, content = content[:num], content[num:]
            windows[0] -= num
            windows[stream] -= num
            self.frame(DATA, 0 if content else END_STREAM, stream, part)
            await self.writer.drain()

    def came(self, stream: int, *kinds: int) -> bytes:
        """All that came on a stream in frames of these kinds."""
        return b"".join(content for kind, _, which, content in self.frames if which == stream and kind in kinds)

    async def _read(self) -> None:
        try:
            while True:
                head = await self.reader.readexactly(9)
                size, kind, flags = int.from_bytes(head[:3]), head[3], head[4]
                stream = int.from_bytes(head[5:]) & 0x7FFFFFFF
                content = await self.reader.readexactly(size)
                self.frames.append((kind, flags, stream, content))
                if kind == SETTINGS and not flags & ACK:
                    self.frame(SETTINGS, ACK, 0)
                elif kind == PING and not flags & ACK:
                    self.frame(PING, ACK, 0, content)
                elif kind == WINDOW_UPDATE:
                    windows = self._windows
                    windows[stream] = windows.get(stream, _WINDOW) + int.from_bytes(content)
                    self._more.set()
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed = True
            self._more.set()


def _text(value: str) -> bytes:
    """A string of HPACK, as it is."""
    data = value.encode()
    size = len(data)
    if size < 127:
        return bytes([size]) + data
    made, size = bytearray([127]), size - 127
    while size > 127:
        made.append(size % 128 + 128)
        size //= 128
    return bytes([*made, size]) + data
