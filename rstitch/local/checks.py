"""What can be refused before a stack's parts are started: they could say it only after the models are loaded."""

from __future__ import annotations

from rstitch.local.part import StackError
from rstitch.local.processes import is_free
from rstitch.local.readiness import is_url, refuses_connections, without_secrets


def check_port(port: int, part: str, remedy: str) -> None:
    """Raises: StackError for a port that is taken; 0 is none."""
    if port and not is_free(port):
        raise StackError(f"port {port} is in use.", part=part, remedy=f"Is a stack running already? Else {remedy}")


def check_redis(url: str | None) -> None:
    """Raises: StackError for a Redis that nobody listens for; None is one of our own."""
    if url is not None and not is_url(url):
        remedy = "Write redis://user:password@host:port/number, and in a password %2F for / and %40 for @."
        raise StackError("--redis is no URL of a Redis.", part="redis", remedy=remedy)
    if url is not None and refuses_connections(url):
        remedy = "Start it, correct --redis, or leave it out: then the stack starts one of its own."
        raise StackError(f"no Redis answers at {without_secrets(url)}.", part="redis", remedy=remedy)
