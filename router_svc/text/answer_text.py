"""The text of an answer, token by token, up to a stop string.

Shared by the decode loop, which stops there, and by every reader, who is shown it. It knows no chunks.
"""

from __future__ import annotations

from collections.abc import Sequence

from router_svc.text.detokenizer import Decode, Detokenizer
from router_svc.text.stop_strings import StopStrings

# Tokens before the answer that the detokeniser sees: enough for the decoders that treat a beginning otherwise.
CONTEXT_TOKENS = 8


class AnswerText:
    """Text of a growing answer.

    Args:
        decode: token ids to text.
        context: the session's last tokens before the answer.
        stops: strings that end it.
    """

    def __init__(self, decode: Decode, context: Sequence[int], stops: Sequence[str]) -> None:
        self._detokenizer = Detokenizer(decode, context)
        self._stops = StopStrings(stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop string is complete."""
        return self._stops.hit

    @property
    def holds(self) -> bool:
        """Whether text is held back: a character or a possible stop string is unfinished."""
        return not self._stops.hit and (self._detokenizer.holds or self._stops.holds)

    def push(self, token: int) -> str:
        """The text that is certain with this token, and was not before it."""
        return self._stops.push(self._detokenizer.push(token))

    def flush(self) -> str:
        """What was held back: the answer ends here."""
        if self.stopped:
            return ""
        return self._stops.push(self._detokenizer.flush()) + self._stops.flush()
