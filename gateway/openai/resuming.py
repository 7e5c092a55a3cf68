"""How far a stream is, as the `id` of its events, so that a client that lost it goes on where it was.

By the standard (HTML, server-sent events) such a client asks again with the last id as `Last-Event-ID`. It is
the same answer, but it may come in other pieces: so an id says how many characters each choice was told, and up to
which position tokens, and that much is passed over. It knows no route.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gateway.errors import bad
from gateway.openai.thinking import Piece

LAST_ID_HEADER = "last-event-id"
_CHOICE = re.compile(r"([012])\.(\d{1,9})\.(\d{1,9})\.(\d{1,9})", re.ASCII)
_USAGE = "u"
# An id says all choices, and what is sent back as a header must get through proxies.
MOST_CHOICES = 32
Tokens = Sequence[dict[str, Any]]


@dataclass(slots=True)
class _Told:
    """What of a choice was told: its stage (1: its opening, 2: its end, too), characters, and tokens up to where."""

    stage: int = 0
    thinking: int = 0
    content: int = 0
    tokens: int = 0


class Place:
    """Where a stream is, while what the client has is passed over first."""

    def __init__(self, num_choices: int, last_id: str = "") -> None:
        """Begins where an id says, or at the beginning. Raises: ApiError if it is no id of such a stream."""
        self._had = _parsed(last_id, num_choices) if last_id else [_Told() for _ in range(num_choices)]
        self.resumes = bool(last_id)
        self._seen = [_Told() for _ in range(num_choices)]
        self._usage = last_id.endswith(_USAGE)

    @property
    def id(self) -> str:
        """Gives the id of an event that is sent now."""
        told = (f"{each.stage}.{each.thinking}.{each.content}.{each.tokens}" for each in self._had)
        return "-".join(told) + (_USAGE if self._usage else "")

    def opens(self, index: int) -> bool:
        """Says whether a choice's opening is to be told, and that it is."""
        return self._reaches(index, 1)

    def ends(self, index: int) -> bool:
        """Says whether a choice's end is to be told, and that it is."""
        return self._reaches(index, 2)

    def sums_up(self) -> bool:
        """Says whether the usage is to be told, and that it is."""
        had, self._usage = self._usage, True
        return not had

    def parted(self, index: int, piece: Piece, tokens: Tokens) -> tuple[tuple[Piece, Tokens], tuple[Piece, Tokens]]:
        """Parts what comes next into what the client has, and what it is told."""
        had, seen = self._had[index], self._seen[index]
        thinking = max(0, had.thinking - seen.thinking)
        content = max(0, had.content - seen.content)
        num = sum(token["rstitch"]["position"] < had.tokens for token in tokens)
        seen.thinking += len(piece.thinking)
        seen.content += len(piece.content)
        had.thinking = max(had.thinking, seen.thinking)
        had.content = max(had.content, seen.content)
        if tokens:
            had.tokens = max(had.tokens, tokens[-1]["rstitch"]["position"] + 1)
        passed = Piece(piece.thinking[:thinking], piece.content[:content]), tokens[:num]
        return passed, (Piece(piece.thinking[thinking:], piece.content[content:]), tokens[num:])

    def _reaches(self, index: int, stage: int) -> bool:
        had = self._had[index]
        if had.stage >= stage:
            return False
        had.stage = stage
        return True


def _parsed(last_id: str, num_choices: int) -> list[_Told]:
    found = [_CHOICE.fullmatch(part) for part in last_id.removesuffix(_USAGE).split("-")]
    if len(found) != num_choices or not all(found):
        remedy = "Send the last id that the stream had, with the same request, or leave it out."
        raise bad("Last-Event-ID", "it is no event of this answer.", remedy)
    return [_Told(*map(int, each.groups())) for each in found if each is not None]
