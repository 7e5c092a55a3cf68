"""A TCP proxy in front of a gRPC server that counts what its client pings: HTTP/2 frames, as RFC 9113 has them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

_PREFACE_BYTES, _HEADER_BYTES = 24, 9
_PING, _ACK = 6, 1


class PingCounter:
    """`address` leads to the target; `num_pings` counts the pings that clients have sent to it."""

    def __init__(self, target: str) -> None:
        self.address = ""
        self.num_pings = 0
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._serving: set[asyncio.Task[None] | None] = set()

    async def forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Passes on what one client sends and is sent, and counts its pings."""
        from_server, to_server = await asyncio.open_connection(self._host, self._port)
        replies = asyncio.create_task(_copy(from_server, writer))
        self._serving.add(asyncio.current_task())
        try:
            to_server.write(await reader.readexactly(_PREFACE_BYTES))
            while True:
                header = await reader.readexactly(_HEADER_BYTES)
                to_server.write(header + await reader.readexactly(int.from_bytes(header[:3])))
                self.num_pings += header[3] == _PING and not header[4] & _ACK
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            replies.cancel()
            to_server.close()
            writer.close()

    async def close(self) -> None:
        """Cuts off whoever is still served."""
        serving = {task for task in self._serving if task is not None and not task.done()}
        for task in serving:
            task.cancel()
        if serving:
            await asyncio.wait(serving)


@contextlib.asynccontextmanager
async def counting_pings(target: str) -> AsyncIterator[PingCounter]:
    """Serves the proxy on a free port."""
    counter = PingCounter(target)
    server = await asyncio.start_server(counter.forward, "127.0.0.1", 0)
    counter.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield counter
    finally:
        server.close()
        await counter.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
    writer.close()
