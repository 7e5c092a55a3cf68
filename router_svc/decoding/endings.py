"""What ends an answer: a stop token of whoever wrote it, a stop string in its text."""

from __future__ import annotations

from collections.abc import Mapping

from router_svc.text.answer_text import AnswerText
from router_svc.trajectory.types import Model


class Endings:
    """Watches one answer for its end.

    Args:
        stop_tokens: each model's own.
        text: of the answer so far, if stop strings must be looked for.
    """

    def __init__(self, stop_tokens: Mapping[Model, frozenset[int]], text: AnswerText | None) -> None:
        self._stop_tokens = stop_tokens
        self._text = text

    @property
    def has_stop_string(self) -> bool:
        """Whether a stop string is complete."""
        return self._text is not None and self._text.stopped

    def stop_tokens(self, author: Model) -> frozenset[int]:
        """Tokens with which the answer ends where `author` wrote them."""
        return self._stop_tokens[author]

    def read(self, tokens: list[int]) -> int:
        """Looks for stop strings in tokens that are about to be kept.

        Returns: how many of them to keep: all, or up to and with the one that completes a stop string.
        """
        if self._text is not None:
            for index, token in enumerate(tokens):
                self._text.push(token)
                if self._text.stopped:
                    return index + 1
        return len(tokens)
