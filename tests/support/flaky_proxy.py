"""A TCP proxy that cuts connections after so many bytes, as a bad network or a killed process does."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self


class FlakyProxy:
    """Forwards to `target`; `bytes_until_cut()` says for each connection how many bytes of replies pass."""

    def __init__(self, target: str, bytes_until_cut: Callable[[], int]) -> None:
        host, port = target.rsplit(":", 1)
        self._target = (host, int(port))
        self._bytes_until_cut = bytes_until_cut
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.num_connections = 0
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        _close(self._listener, *self._sockets)
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.num_connections += 1
            server = socket.create_connection(self._target)
            self._sockets += [client, server]
            for source, sink, limit in ((client, server, 1 << 60), (server, client, self._bytes_until_cut())):
                thread = threading.Thread(target=_pump, args=(source, sink, limit), daemon=True)
                self._threads.append(thread)
                thread.start()


def _pump(source: socket.socket, sink: socket.socket, limit: int) -> None:
    with contextlib.suppress(OSError):
        while limit > 0 and (data := source.recv(min(4096, limit))):
            sink.sendall(data)
            limit -= len(data)
    _close(source, sink)


def _close(*sockets: socket.socket) -> None:
    for s in sockets:
        with contextlib.suppress(OSError):
            s.shutdown(socket.SHUT_RDWR)
        s.close()
