"""What ends an answer: a stop token, whichever model's it is, or a stop string in its text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from router_svc.text.answer_text import AnswerText
from router_svc.trajectory.types import Model


@dataclass(frozen=True, slots=True)
class Endings:
    """Watches one answer for its end; its text is needed only where stop strings must be looked for."""

    stop_tokens: Mapping[Model, frozenset[int]]  # by author
    text: AnswerText | None

    @property
    def has_stop_string(self) -> bool:
        return self.text is not None and self.text.stopped

    def read(self, tokens: Sequence[int], writer: Model) -> int:
        """Looks for stop strings in tokens of `writer` that are about to be kept.

        Returns: how many of them to keep: all, or up to and with the one that completes a stop string.
        """
        if self.text is not None:
            for index, token in enumerate(tokens):
                self.text.push(token, writer)
                if self.text.stopped:
                    return index + 1
        return len(tokens)
