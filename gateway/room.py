"""How much the bodies of all requests may take at once, and those of one client. It knows no request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from gateway.errors import ApiError

# Of each body so much takes no room: what most send, and no more in all than connections are bounded to. Otherwise
# whoever sends a few large bodies would shut out everybody.
_FREE = 1 << 16
_RETRY_AFTER_S = 1.0
_REFUSALS = {
    "address": ("TOO_MUCH_OF_ADDRESS", "from this address"),
    "key": ("TOO_MUCH_OF_KEY", "with this key"),
}


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose a body is, by one of the things that tell clients apart; `what` is that, and `name` its own among those."""

    what: str  # "address" or "key"
    name: str


class Room:
    """The bytes that bodies may take beyond the first 64 KiB of each: in all, of one address, and with one key."""

    def __init__(self, num_bytes: int, *, of_address: int, of_key: int) -> None:
        self._left = num_bytes
        self._most = {"address": of_address, "key": of_key}
        self._held = Counter[Holder]()

    @contextmanager
    def share(self, holders: Sequence[Holder]) -> Iterator[Share]:
        """Gives a body of these holders its share, which is given back at the end."""
        made = Share(self, holders)
        try:
            yield made
        finally:
            made.resize(0)

    def take(self, holders: Sequence[Holder], num_bytes: int) -> None:
        """Takes so many bytes for all of the holders; less than 0 gives them back.

        Raises: ApiError (429) if one of them would hold too much, ApiError (503) if the bytes are not there.
        """
        if num_bytes > self._left:
            what = (
                "Too much is being sent at once. Try again later, or raise --max-bodies-mib (RSTITCH_MAX_BODIES_MIB)."
            )
            raise ApiError(503, what, code="TOO_MUCH_AT_ONCE", retry_after_s=_RETRY_AFTER_S)
        for holder in holders:
            if num_bytes > 0 and self._held[holder] + num_bytes > self._most[holder.what]:
                code, where = _REFUSALS[holder.what]
                what = f"Too much is being sent at once {where}. Wait for answers, then send it again."
                raise ApiError(429, what, code=code, retry_after_s=_RETRY_AFTER_S)
        self._left -= num_bytes
        for holder in holders:
            self._held[holder] += num_bytes
            if not self._held[holder]:
                del self._held[holder]


class Share:
    """What one body takes of the room."""

    def __init__(self, room: Room, holders: Sequence[Holder]) -> None:
        self._room = room
        self._holders = holders
        self._taken = 0

    def resize(self, num_bytes: int) -> None:
        """Says how long the body is by now. Raises: ApiError (429, 503) if there is no room for it."""
        wanted = max(0, num_bytes - _FREE)
        self._room.take(self._holders, wanted - self._taken)
        self._taken = wanted
