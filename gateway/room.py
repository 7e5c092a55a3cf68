"""How much the bodies of all requests may take at once. It knows no request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gateway.errors import ApiError

# Of each body so much takes no room: what most send, and no more in all than connections are bounded to. Otherwise
# whoever sends a few large bodies would shut out everybody.
_FREE = 1 << 16
_RETRY_AFTER_S = 1.0


class Room:
    """The bytes that bodies may take in all, beyond the first 64 KiB of each."""

    def __init__(self, num_bytes: int) -> None:
        self._left = num_bytes

    @contextmanager
    def share(self) -> Iterator[Share]:
        """Gives one body its share, which is given back at the end."""
        made = Share(self)
        try:
            yield made
        finally:
            made.resize(0)

    def take(self, num_bytes: int) -> None:
        """Takes so many bytes, less than 0 gives them back. Raises: ApiError (503) if they are not there."""
        if num_bytes > self._left:
            what = (
                "Too much is being sent at once. Try again later, or raise --max-bodies-mib (RSTITCH_MAX_BODIES_MIB)."
            )
            raise ApiError(503, what, code="TOO_MUCH_AT_ONCE", retry_after_s=_RETRY_AFTER_S)
        self._left -= num_bytes


class Share:
    """What one body takes of the room."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._taken = 0

    def resize(self, num_bytes: int) -> None:
        """Says how long the body is by now. Raises: ApiError (503) if there is no room for it."""
        wanted = max(0, num_bytes - _FREE)
        self._room.take(wanted - self._taken)
        self._taken = wanted
