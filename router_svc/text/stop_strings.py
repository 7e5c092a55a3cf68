"""Finds the strings that end an answer in text that comes in pieces. It knows no tokens."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Lets text through up to a stop string; holds back an end that may be the beginning of one.

    What it has let through after some text is a function of that text alone, however it was cut.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.hit = False

    @property
    def holds(self) -> bool:
        """Whether text is held back."""
        return bool(self._held)

    def push(self, text: str) -> str:
        """The text that is certain now; after a hit nothing more is."""
        if self.hit or not self._stops:
            return "" if self.hit else text
        text = self._held + text
        # Where the one that is complete first begins; of those complete at once the earliest.
        ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in self._stops if stop in text]
        if ends:
            self.hit = True
            self._held = ""
            return text[: min(ends)[1]]
        cut = len(text) - self._possible(text)
        self._held = text[cut:]
        return text[:cut]

    def flush(self) -> str:
        """What was held back: no more text comes."""
        held, self._held = self._held, ""
        return held

    def _possible(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = max(len(stop) for stop in self._stops) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
