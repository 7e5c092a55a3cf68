"""Finds the strings that end an answer in text that comes in pieces. It knows no tokens.

Pieces end where tokens do, and a stop string begins and ends anywhere:

    stop string   "Question:"
    pieces        "it is 4. Q"   "ues"    "tion: wh"
    let through   "it is 4. "    ""       "", a hit
    held back     "Q"            "Ques"   ""

Special tokens have no text. A stop string that has the spelling of one in it means that token, too, and must then be
found although no reader is shown it: it stands in what is held back as a mark of its own, and what is let through has
no marks.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

# Marks are lone surrogates, which no text that was decoded has in it.
_FIRST_MARK, _MAX_MARKS = 0xD800, 0x800


class StopStrings:
    """Lets text through up to a stop string, and holds back an end that may be the beginning of one.

    What it has let through after some text is a function of that text alone, however it was cut into pieces: the loop
    and each reader have a filter of their own, and all must stop at the same place. What follows a hit is
    dropped.

    Attributes:
        named: spellings of those of the special tokens `specials` that the stop strings have in them.
    """

    def __init__(self, stops: Sequence[str], specials: Collection[str] = ()) -> None:
        self._stops = tuple(stops)
        found = sorted(special for special in specials if special and any(special in stop for stop in stops))
        self._marks = {spelling: chr(_FIRST_MARK + index) for index, spelling in enumerate(found[:_MAX_MARKS])}
        self._spellings = {mark: spelling for spelling, mark in self._marks.items()}
        self.named = frozenset(self._marks)
        # Each beginning of a stop string that is not all of one, so that most text is done with at one look.
        self._beginnings = frozenset(stop[:length] for stop in stops for length in range(1, len(stop)))
        self._longest = max(map(len, stops), default=1) - 1
        self._held = ""
        self.hit = False

    @property
    def holds(self) -> bool:
        """Whether an end of the text is held back, as it may be the beginning of a stop string."""
        return bool(self._held)

    def push(self, text: str) -> str:
        """Takes the next piece and returns the text that is certain now; after a hit there is none."""
        if self.hit:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        # The stop string that is complete first ends the text, not the one that begins first: whether a longer one
        # would have been completed is not known yet when the text comes token by token. Of those complete at the same
        # character the one that begins earliest counts.
        ends, possible = self._find_around_marks(text) if self._marks else self._find(text)
        if ends:
            self.hit = True
            self._held = ""
            return self._unmarked(text[: min(ends)[1]])
        self._held = text[possible:]
        return self._unmarked(text[:possible])

    def push_special(self, spelling: str) -> str:
        """Takes a special token, one of those `named`: it is no text, but may be part of a stop string."""
        return self.push(self._marks[spelling])

    def flush(self) -> str:
        """Returns what was held back, as no more text comes that could complete it."""
        held, self._held = self._held, ""
        return self._unmarked(held)

    def _unmarked(self, text: str) -> str:
        return "".join(char for char in text if char not in self._spellings) if self._marks else text

    def _find(self, text: str) -> tuple[list[tuple[int, int]], int]:
        """End and begin of the stop strings in `text`; where the longest end begins that more text may make one of."""
        ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in self._stops if stop in text]
        if ends:
            return ends, 0
        for begin in range(max(0, len(text) - self._longest), len(text)):
            if text[begin:] in self._beginnings:
                return [], begin
        return [], len(text)

    def _find_around_marks(self, text: str) -> tuple[list[tuple[int, int]], int]:
        """The same for text with marks, each of which is its spelling to stop strings with it and nothing to others."""
        ends: list[tuple[int, int]] = []
        possible = len(text)
        for begin in range(len(text)):
            for stop in self._stops:
                end = self._match(stop, text, begin)
                if end is None:
                    possible = min(possible, begin)
                elif end:
                    ends.append((end, begin))
        return ends, possible

    def _match(self, stop: str, text: str, begin: int) -> int | None:
        """Where in `text` the stop string ends that begins at `begin`: 0 if none does, None if more text may end it."""
        at = 0
        for index in range(begin, len(text)):
            piece = self._spellings.get(text[index], text[index])
            if text[index] in self._spellings and piece not in stop:
                if at == 0:
                    return 0
                continue
            if not stop.startswith(piece, at):
                return 0
            at += len(piece)
            if at == len(stop):
                return index + 1
        return None
