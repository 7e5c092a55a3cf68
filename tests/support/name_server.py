"""A name server of the tests' own, which knows one name. It answers A records, and nothing else."""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from typing import Any, Self

_RESPONSE, _A, _IN, _TTL_S = 0x8580, 1, 1, 0


class NameServer(asyncio.DatagramProtocol):
    """Tells `addresses`, which a test may change, to whoever asks for any name; an asynchronous context manager."""

    def __init__(self, addresses: list[str]) -> None:
        self.addresses = addresses

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        return self

    async def __aexit__(self, *raised: object) -> None:
        self._transport.close()

    def target(self, name: str, port: int) -> str:
        """Gives what gRPC is to be told to ask this server for a name."""
        return f"dns://127.0.0.1:{self._transport.get_extra_info('sockname')[1]}/{name}:{port}"

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        # A question is a name, as words with their lengths before them up to an empty one, then its kind and class.
        end = data.index(b"\0", 12) + 5
        (kind,) = struct.unpack("!H", data[end - 4 : end - 2])
        found = self.addresses if kind == _A else []
        reply = data[:2] + struct.pack("!5H", _RESPONSE, 1, len(found), 0, 0) + data[12:end]
        for each in found:  # 0xC00C: the name in the question
            reply += struct.pack("!HHHIH", 0xC00C, _A, _IN, _TTL_S, 4) + ipaddress.IPv4Address(each).packed
        self._transport.sendto(reply, addr)
