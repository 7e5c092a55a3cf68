"""Finds the strings that end an answer in text that comes in pieces. It knows no tokens.

Pieces end where tokens do, and a stop string begins and ends anywhere:

    stop string   "Question:"
    pieces        "it is 4. Q"   "ues"    "tion: wh"
    let through   "it is 4. "    ""       "", a hit
    held back     "Q"            "Ques"   ""
"""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Lets text through up to a stop string, and holds back an end that may be the beginning of one.

    What it has let through after some text is a function of that text alone, however it was cut into pieces: the loop
    and each reader have a filter of their own, and all must stop at the same place. What follows a hit is
    dropped.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
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
        ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in self._stops if stop in text]
        if ends:
            self.hit = True
            self._held = ""
            return text[: min(ends)[1]]
        cut = len(text) - self._possible(text)
        self._held = text[cut:]
        return text[:cut]

    def flush(self) -> str:
        """Returns what was held back, as no more text comes that could complete it."""
        held, self._held = self._held, ""
        return held

    def _possible(self, text: str) -> int:
        """Length of the longest end of `text` that is the beginning of a stop string, and not all of one."""
        longest = max(len(stop) for stop in self._stops) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
