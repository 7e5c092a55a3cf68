"""HTTP by hand over a bare socket, for what no client would send."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def wire(address: str, source: str = "") -> Iterator[socket.socket]:
    """A connection to http://HOST:PORT, from an address of ours, that gives up a test which waits for nothing."""
    host, _, port = address.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60, source_address=(source, 0)) as made:
        yield made


def to_end(of: socket.socket) -> bytes:
    """All that comes until the other side ends."""
    pieces = []
    while piece := of.recv(1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


def answer(told: bytes) -> tuple[int, dict[str, str], Any]:
    """The status, the headers and the JSON of one whole answer."""
    head, _, body = told.partition(b"\r\n\r\n")
    status, headers = _read(head)
    assert int(headers["content-length"]) == len(body), told
    return status, headers, json.loads(body)


def next_answer(of: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Likewise, of a connection that need not end with it."""
    told = b""
    while b"\r\n\r\n" not in told or len(told.partition(b"\r\n\r\n")[2]) < _length(told):
        piece = of.recv(1 << 16)
        assert piece, told
        told += piece
    return answer(told)


def _length(told: bytes) -> int:
    return int(_read(told.partition(b"\r\n\r\n")[0])[1]["content-length"])


def _read(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = (line.partition(":") for line in lines)
    return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in fields}
