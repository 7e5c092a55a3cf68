"""The text of an answer, token by token, up to a stop string.

Shared by the decode loop, which stops there, and by every reader, who is shown it. It knows no chunks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from router_svc.text.detokenizer import Detokenizer
from router_svc.text.stop_strings import StopStrings
from router_svc.text.tokenizer import Tokenizer
from router_svc.trajectory.types import Model


class AnswerText:
    """Text of a growing answer: tokens go through the detokenizer, and what comes out through the stop strings.

    Where the models have a tokenizer each, the tokens of a writer are read by its own, and its text goes on with that
    of the writer before. Where both have the same one, it makes no difference who writes.

    Args:
        tokenizers: what the answer's tokens are read by, by their writer.
        context: the last tokens before the answer, at most CONTEXT_TOKENS of them, in ids of the LLM.
        stops: the stop strings. One that has the spelling of a special token in it means that token, too.
    """

    def __init__(self, tokenizers: Mapping[Model, Tokenizer], context: Sequence[int], stops: Sequence[str]) -> None:
        self._tokenizers = tokenizers
        self._writer = Model.LLM
        self._detokenizer = Detokenizer(tokenizers[Model.LLM], context)
        specials = {model: tokenizer.special if stops else {} for model, tokenizer in tokenizers.items()}
        self._stops = StopStrings(stops, {spelling for special in specials.values() for spelling in special.values()})
        # What stop strings must be told of, by writer and id.
        self._named = {
            model: {token: spelling for token, spelling in special.items() if spelling in self._stops.named}
            for model, special in specials.items()
        }

    @property
    def stopped(self) -> bool:
        """Whether a stop string is complete, so that the answer ends with the token pushed last."""
        return self._stops.hit

    @property
    def holds(self) -> bool:
        """Whether text is held back, because a character or a possible stop string is unfinished."""
        # After a stop string nothing is: it may lie in the middle of a token, whose rest is dropped.
        return not self._stops.hit and (self._detokenizer.holds or self._stops.holds)

    def push(self, token: int, writer: Model) -> str:
        """Takes the next token and returns the text that became certain with it, often "" or more than its own."""
        text = "" if writer is self._writer else self._hand_over(writer)
        named = self._named[writer]
        if token in named:
            # It stands behind all text so far, and nothing completes a character across it.
            return self._stops.push(text + self._detokenizer.flush()) + self._stops.push_special(named[token])
        return self._stops.push(text + self._detokenizer.push(token))

    def flush(self) -> str:
        """Returns what was held back, as the answer ends here and nothing can change it any more."""
        if self.stopped:
            return ""
        return self._stops.push(self._detokenizer.flush()) + self._stops.flush()

    def _hand_over(self, writer: Model) -> str:
        """Returns what is left of the writer before; its tokens mean nothing to another tokenizer."""
        before, tokenizer = self._tokenizers[self._writer], self._tokenizers[writer]
        self._writer = writer
        if tokenizer is before:
            return ""
        text = self._detokenizer.flush()
        # Whatever was written before, this goes on with it.
        self._detokenizer = Detokenizer(tokenizer, tokenizer.anchor)
        return text
