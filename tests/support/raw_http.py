"""HTTP by hand over a bare socket, for what no client would send."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def wire(address: str) -> Iterator[socket.socket]:
    """A connection to http://HOST:PORT that gives up a test which waits for nothing."""
    host, _, port = address.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as made:
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
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    assert int(headers["content-length"]) == len(body), told
    return int(first.split()[1]), headers, json.loads(body)
