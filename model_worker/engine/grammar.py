"""What an answer may be, as the engine asks about it. It knows no schema and no text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from model_worker.engine.errors import EngineError


class Grammar(Protocol):
    """Says with which tokens the answer of one session can go on; asked in the engine's thread alone."""

    @property
    def start(self) -> int:
        """The position where the answer begins."""

    def allowed(self, tokens: Sequence[int], num_same: int, num: int) -> list[bytes | EngineError]:
        """Returns which tokens may come after each of the last `num` prefixes of a session, the shortest first.

        Of the session's `tokens` the first `num_same` are those of the call before: they need not be read again.
        Each has a bit for every token of the vocabulary, the lowest of a byte first, and at least one set; or it says
        why none may come. It is a function of the answer alone. All are set where the prefix could not be written.
        """
