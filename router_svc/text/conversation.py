"""A conversation as prompts for one model: its first one, and what a later turn puts behind what the model has read.

The law: what a model reads is its template's rendering of the whole conversation, tokenised, but for the tokens of the
answers that the template still shows whole: those stay as they were written.

    rendered   <user> Hello <assistant> ANSWER <end> <user> And? <assistant>
    tokens     |---- rendered's -------| own  |------- rendered's ---------|

Where a template drops something of an earlier answer, such as its reasoning, all from there on is as rendered. It knows
no store and no workers.
"""

from __future__ import annotations

import contextlib
import secrets
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from router_svc.text.matching import Vocabulary
from router_svc.text.template import Edges
from router_svc.text.tokenizer import Tokenizer
from router_svc.text.turns import ASSISTANT, Answered, Message, Turn, in_force
from router_svc.trajectory.types import common_prefix, tokens_of
from rstitch.errors import RstitchError, invalid

# A template may put a mark before an answer that the answer itself leaves out, such as <think>.
_MAX_MARK = 64
# Stands for an answer when the template is asked what it puts behind one; no message holds it.
_PROBE = "RSTITCH-ENDS-4F1D"


@dataclass(frozen=True, slots=True)
class NextPrompt:
    """A later turn's prompt: the model then has read `view_tokens[:num_before] + tokens`."""

    num_before: int  # tokens that stay of what the model has read before
    tokens: array[int]  # never empty


def answered(tokenizer: Tokenizer, tokens: array[int], *, ended: bool) -> Answered:
    """The answer that a model has read as `tokens`; `ended` says whether the last of them is a stop token."""
    return Answered(tokens, tokenizer.spelled(tokens[:-1] if ended else tokens), ended)


def first_prompt(tokenizer: Tokenizer, turn: Turn, most: int = sys.maxsize) -> array[int]:
    """Tokens of a conversation's first turn, at most so many.

    Raises RstitchError (field `chat`) where the template refuses it, TooLong where there are more tokens.
    """
    return tokenizer.encode_rendered(tokenizer.template.render(turn.messages, turn), begins=True, most=most)


def next_prompt(
    tokenizer: Tokenizer, turns: Sequence[Turn], view_tokens: array[int], num_raw: int = 0, most: int = sys.maxsize
) -> NextPrompt:
    """The prompt of the newest of `turns`, a chat turn; all before it are answered.

    Args:
        tokenizer: the model's.
        turns: all of the session, in order.
        view_tokens: what the model has read so far.
        num_raw: where there are raw turns, the tokens of the view up to the end of the last one's answer. Nobody knows
            their messages: these tokens stay, and a stand-in is rendered for them.
        most: how many tokens there may be between two answers.

    Raises RstitchError (field `chat`) where the template refuses the conversation, TooLong where there are more tokens.
    """
    target = _Conversation(tokenizer, turns, most).tokens(view_tokens[:num_raw])
    num_before = min(common_prefix(view_tokens, target), len(target) - 1) if target else 0
    return NextPrompt(num_before, target[num_before:])


def stop_token(side: Vocabulary, turn: Turn) -> int | None:
    """The stop token that the model's template puts behind an answer to a turn; None for a model that has none.

    It is the tokenizer's end of a text where the template puts none there, or there is no template or no chat.
    """
    tokenizer, ends = side.tokenizer, {token for token in side.stop_tokens if token < side.size}
    messages = list(turn.messages) or [Message("user", "-")]
    if turn.continues:
        messages[-1] = messages[-1].continued(_PROBE, trimmed=False)
    else:
        messages.append(Message(ASSISTANT, _PROBE))
    behind = ""
    with contextlib.suppress(RstitchError):
        behind = tokenizer.template.render([*messages, Message("user", "-")], turn).rpartition(_PROBE)[2].lstrip()
    spelled = {token: tokenizer.spelling(token) or "" for token in ends}
    found = [token for token, spelling in spelled.items() if spelling and behind.startswith(spelling)]
    if found:
        return max(found, key=lambda token: len(spelled[token]))
    eos = tokenizer.eos_token()
    return eos if eos is not None and eos in ends else min(ends, default=None)


@dataclass(frozen=True, slots=True)
class _Shown:
    """An answer that the template shows whole, by where it is in the rendering."""

    start: int
    end: int
    turn: Turn

    @property
    def answer(self) -> Answered:
        assert self.turn.answer is not None
        return self.turn.answer


class _Conversation:
    """A session's turns, rendered by one model's template."""

    def __init__(self, tokenizer: Tokenizer, turns: Sequence[Turn], most: int) -> None:
        *earlier, self._newest = turns
        self._tokenizer = tokenizer
        self._most = most
        self._asked = in_force(turns)
        raw = [index for index, turn in enumerate(earlier) if turn.is_raw]
        self._raw_answer = earlier[raw[-1]].answer if raw else None
        said = "".join(turn.to_json() for turn in turns) + "".join(turn.answer.text for turn in earlier if turn.answer)
        # Stands for an answer when the template is asked where it puts one. Nobody can have foreseen it.
        self._name = _new_name()
        while self._name in said:
            self._name = _new_name()
        self._earlier = earlier[raw[-1] + 1 :] if raw else earlier
        if raw:
            # It reads as its own mark, in either rendering.
            unknown = Turn((Message("user", "-"),), answer=Answered(tokens_of(), self._mark(0), ended=False))
            self._earlier = [unknown, *self._earlier]

    def tokens(self, raw: array[int]) -> array[int]:
        """All that the model is to have read; `raw` are the tokens of raw turns."""
        text = self._rendered(marked=False)
        shown = list(self._shown(text))
        target, at, before = raw[:], 0, None
        if self._raw_answer is not None:
            if not shown:
                remedy = "Send the whole conversation anew."
                raise invalid("chat", "the chat template drops answers to raw text or tokens.", remedy)
            at, before = shown.pop(0).end, self._raw_answer
        edges = self._edges()
        for one in shown:
            piece = text[at : one.start]
            if not one.turn.continues and piece.endswith(edges.shown):
                # The prompt for the answer had other white space at its end, and the answer was written behind that.
                piece = piece[: len(piece) - len(edges.shown)] + edges.asked
            target += self._encoded(piece, before)
            target += one.answer.tokens
            at, before = one.end, one.answer
        return target + self._encoded(text[at:], before)

    def _encoded(self, text: str, before: Answered | None) -> array[int]:
        """Tokens of a piece of the rendering that follows `before`, or begins it.

        A stop token that the answer ended with is not put twice, nor white space before it; nor is a special token that
        ends answers by the template alone, such as one that the request named. It is encoded all the same, since what
        follows a special token may have other tokens than by itself.
        """
        encode = partial(self._tokenizer.encode_rendered, most=self._most)
        if before is None:
            return encode(text, begins=True)
        stop = before.tokens[-1] if before.tokens else None
        ends = stop is not None and (before.ended or stop in self._tokenizer.special)
        spelling = self._tokenizer.spelling(stop) if ends and stop is not None else None
        closing = text.lstrip()
        if not spelling or not closing.startswith(spelling):
            return encode(text, begins=False)
        tokens = encode(closing, begins=False)
        return tokens[1:] if tokens and tokens[0] == stop else encode(closing[len(spelling) :], begins=False)

    def _shown(self, text: str) -> Iterator[_Shown]:
        """The answers that the template shows whole, in order, up to the first that it does not.

        Between them `text`, the rendering, must read as the one of stand-ins does, or an answer has changed more than
        its own place.
        """
        if not self._earlier:
            return
        pieces = self._pieces()
        at = 0
        for index, (turn, piece) in enumerate(zip(self._earlier, pieces, strict=False)):
            if not text.startswith(piece, at):
                return
            assert turn.answer is not None
            place = _find(text, turn.answer.text, at + len(piece))
            if place is None or index + 1 == len(pieces):
                return
            start, end = place
            # White space that the answer ends with may be shown or not.
            tail = turn.answer.text[len(turn.answer.text.rstrip()) :]
            if text.startswith(tail + pieces[index + 1], end):
                end += len(tail)
            elif not text.startswith(pieces[index + 1], end):
                return
            yield _Shown(start, end, turn)
            at = end

    def _pieces(self) -> list[str]:
        """What the template puts before, between and behind the answers, up to the first that it drops altogether."""
        rest = self._rendered(marked=True)
        pieces = []
        for index in range(len(self._earlier)):
            piece, found, rest_behind = rest.partition(self._mark(index))
            pieces.append(piece)
            if not found:
                return pieces
            rest = rest_behind
        return [*pieces, rest]

    def _rendered(self, *, marked: bool) -> str:
        messages: list[Message] = []
        trims = self._edges().trims
        for index, turn in enumerate(self._earlier):
            messages += turn.messages
            if turn.answer is None:
                continue
            text = self._mark(index) if marked else turn.answer.text
            if turn.continues:
                messages[-1] = messages[-1].continued(text, trimmed=trims)
            else:
                messages.append(Message(ASSISTANT, text))
        return self._tokenizer.template.render([*messages, *self._newest.messages], self._asked)

    def _mark(self, index: int) -> str:
        return f"{self._name}-{index}X"

    def _edges(self) -> Edges:
        template = self._tokenizer.template
        return template.edges(template.choose(self._asked))


def _new_name() -> str:
    return f"RSTITCH-ANSWER-{secrets.token_hex(8).upper()}"


def _find(text: str, answer: str, at: int) -> tuple[int, int] | None:
    """Where `text` has the words of an answer, white space aside, at `at` or a short mark behind it."""
    words = answer.split()
    if not words:
        return at, at
    start = text.find(words[0], at, at + _MAX_MARK + len(words[0]))
    while start >= 0:
        end = start
        for word in words:
            while end < len(text) and text[end].isspace():
                end += 1
            if not text.startswith(word, end):
                break
            end += len(word)
        else:
            # White space that the answer begins with is its own.
            lead = answer[: len(answer) - len(answer.lstrip())]
            own = lead and at + len(lead) <= start and text.startswith(lead, start - len(lead))
            return (start - len(lead) if own else start), end
        start = text.find(words[0], start + 1, at + _MAX_MARK + len(words[0]))
    return None
