"""A command as the bytes that Redis reads, for commands of many arguments. It knows no connection and no command.

redis-py joins the whole command anew for each argument that it adds; here an argument is one formatting.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def packed(command: Iterable[Any]) -> bytes:
    """Packs a command of texts, bytes and whole numbers, as redis-py would. Raises TypeError for anything else."""
    arguments = [value if type(value) is bytes else _as_bytes(value) for value in command]
    return b"*%d\r\n" % len(arguments) + b"".join([b"$%d\r\n%b\r\n" % (len(value), value) for value in arguments])


def _as_bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, int) and not isinstance(value, bool):
        return b"%d" % value
    raise TypeError(f"{type(value).__name__} is no argument of a command")
