"""A name server of the tests' own. It answers A records of every name that it is asked for, and nothing else."""

from __future__ import annotations

import ipaddress
import socketserver
import struct
import threading
from typing import Self

_RESPONSE, _A, _IN, _TTL_S = 0x8580, 1, 1, 0


class NameServer:
    """Tells `addresses`, which a test may change at any time; a context manager."""

    def __init__(self, addresses: list[str]) -> None:
        self.addresses = addresses
        told = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                data, sent_to = self.request
                sent_to.sendto(told._reply(data), self.client_address)

        self._server = socketserver.UDPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def target(self, name: str, port: int) -> str:
        """Gives what gRPC is to be told to ask this server for a name."""
        return f"dns://127.0.0.1:{self._server.server_address[1]}/{name}:{port}"

    def _reply(self, data: bytes) -> bytes:
        # A question is a name, as words with their lengths before them up to an empty one, then its kind and class.
        end = data.index(b"\0", 12) + 5
        (kind,) = struct.unpack("!H", data[end - 4 : end - 2])
        found = list(self.addresses) if kind == _A else []
        reply = data[:2] + struct.pack("!5H", _RESPONSE, 1, len(found), 0, 0) + data[12:end]
        for each in found:  # 0xC00C: the name in the question
            reply += struct.pack("!HHHIH", 0xC00C, _A, _IN, _TTL_S, 4) + ipaddress.IPv4Address(each).packed
        return reply
