"""A command as the bytes that Redis reads, for commands of many arguments. It knows no connection and no command.

redis-py joins the whole command anew for each argument that it adds; here an argument is one formatting.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def packed(command: Iterable[Any]) -> bytes:
    """Packs a command of texts, bytes and whole numbers, as redis-py would. Raises TypeError for anything else."""
    # The exact types come first: an answer's appends are thousands of arguments a second.
    arguments = [
        value if (kind := type(value)) is bytes
        else value.encode() if kind is str
        else b"%d" % value if kind is int
        else _as_bytes(value)
        for value in command
    ]  # fmt: skip
    return b"*%d\r\n" % len(arguments) + b"".join([b"$%d\r\n%b\r\n" % (len(value), value) for value in arguments])


def _as_bytes(value: Any) -> bytes:
    """The bytes of a value of a subclass, such as a member of an enumeration."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, int) and not isinstance(value, bool):
        return b"%d" % value
    raise TypeError(f"{type(value).__name__} is no argument of a command")
