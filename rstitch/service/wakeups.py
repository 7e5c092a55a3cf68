"""An event loop that is woken once where gRPC's poller has woken it several times. It knows no call and no service.

`grpc.aio` has a thread that waits for whatever its calls do. For each event it writes a byte to a socket that the loop
reads; the loop then handles all events that are there, but reads one byte. So of ten events that come together nine
wake it once more for nothing, and with many calls at once most wake-ups are of that kind. Here the bytes are read
together, all but the one that the handler reads itself. A byte is written behind its event, so what is read here
belongs to an event that the handler is about to find.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, TypeVarTuple

from grpc._cython import cygrpc  # type: ignore[attr-defined]

_PEEK = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)
_MOST = 1024  # bytes read at once; the rest wakes it again
# What reads that socket, in the library's releases so far. In one that has none the loop is asyncio's as it is.
_POLLER: type | None = getattr(cygrpc, "PollerCompletionQueue", None)


_Ts = TypeVarTuple("_Ts")


class GrpcLoop(asyncio.SelectorEventLoop):
    """The loop of a process whose work is calls of `grpc.aio`; make it before the first of them."""

    def add_reader(self, fd: Any, callback: Callable[[*_Ts], Any], *args: *_Ts) -> None:
        """Watches a socket; one of gRPC's poller is read as this module says."""
        if isinstance(fd, socket.socket) and _is_pollers(callback):
            wakes, seen = fd, bytearray(_MOST)

            def taken() -> None:
                num = wakes.recv_into(seen, 0, _PEEK)
                if num > 1:
                    wakes.recv_into(seen, num - 1)
                callback(*args)

            super().add_reader(fd, taken)
        else:
            super().add_reader(fd, callback, *args)


def _is_pollers(callback: Any) -> bool:
    owner = getattr(getattr(callback, "func", callback), "__self__", None)
    return _POLLER is not None and isinstance(owner, _POLLER)
