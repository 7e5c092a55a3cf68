"""The text of an answer, token by token, up to a stop string.

Shared by the decode loop, which stops there, and by every reader, who is shown it. It knows no chunks.
"""

from __future__ import annotations

from collections.abc import Sequence

from router_svc.text.detokenizer import Decode, Detokenizer
from router_svc.text.stop_strings import StopStrings

# Tokens before the answer that the detokenizer sees. Some decoders drop a space at the beginning of what they are
# given, and a prompt may end within a character: the answer's text is what it adds to the text before it. A few tokens
# are enough for both, and every reader takes the same ones, so that all see the same text.
CONTEXT_TOKENS = 8


class AnswerText:
    """Text of a growing answer: tokens go through the detokenizer, and what comes out through the stop strings."""

    def __init__(self, decode: Decode, context: Sequence[int], stops: Sequence[str]) -> None:
        self._detokenizer = Detokenizer(decode, context)
        self._stops = StopStrings(stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop string is complete, so that the answer ends with the token pushed last."""
        return self._stops.hit

    @property
    def holds(self) -> bool:
        """Whether text is held back, because a character or a possible stop string is unfinished."""
        # After a stop string nothing is: it may lie in the middle of a token, whose rest is dropped.
        return not self._stops.hit and (self._detokenizer.holds or self._stops.holds)

    def push(self, token: int) -> str:
        """Takes the next token and returns the text that became certain with it, often "" or more than its own."""
        return self._stops.push(self._detokenizer.push(token))

    def flush(self) -> str:
        """Returns what was held back, as the answer ends here and nothing can change it any more."""
        if self.stopped:
            return ""
        return self._stops.push(self._detokenizer.flush()) + self._stops.flush()
