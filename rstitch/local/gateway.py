"""The gateway as a part of a local stack: its command line, and whether it answers."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import ssl
import sys

from rstitch.local.lock import Lock
from rstitch.local.options import GatewayOptions

_NEEDED = ("fastapi", "uvicorn")


def can_be_started() -> bool:
    """Says whether what the gateway stands on is installed: the extra `http`."""
    return all(importlib.util.find_spec(name) is not None for name in _NEEDED)


def command(options: GatewayOptions, listen: str, router: str, lock: Lock | None) -> list[str]:
    """Gives the command line of a gateway in front of a router."""
    served = [word for name in options.served_model_names for word in ("--served-model-name", name)]
    made = [sys.executable, "-m", "gateway", "--http-listen", listen, "--router", router, *served]
    return [*made, *(lock.of_gateway() if lock else []), *options.args]


def answers(address: str, lock: Lock | None, timeout_s: float) -> bool:
    """Asks whether a gateway lives; whether its router takes questions is the router's own to say."""
    if lock is None:
        connection = http.client.HTTPConnection(address, timeout=timeout_s)
    else:
        trusted = ssl.create_default_context(cafile=lock.ca)
        connection = http.client.HTTPSConnection(address, timeout=timeout_s, context=trusted)
    with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    return False
