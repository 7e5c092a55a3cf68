"""What other programs install to talk to rstitch: contract, client and command line. No torch, no redis."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from rstitch.client import *  # noqa: F403


def __getattr__(name: str) -> Any:
    """Loads the client when it is first asked for: the services import this package too and need none of it."""
    if name[0].isupper():
        client = import_module("rstitch.client")
        if name in client.__all__:
            return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
