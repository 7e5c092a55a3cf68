"""Collectors of traces and metrics that are no good: nobody listens, or nobody answers."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from rstitch.local.processes import free_port


@contextmanager
def closed() -> Iterator[str]:
    """Gives an address at which connections are refused at once."""
    yield f"127.0.0.1:{free_port()}"


@contextmanager
def black_hole() -> Iterator[str]:
    """The address of somebody who takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"
