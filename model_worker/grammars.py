"""Grammars over the model's vocabulary, and the answers that are held to them. llguidance does the work.

What may come next is a function of the answer's tokens: what is kept of an answer between two tokens, or two runs, only
saves reading them again.
"""

from __future__ import annotations

import asyncio
from array import array
from collections import OrderedDict
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from llguidance import LLMatcher, LLTokenizer

from model_worker.engine.errors import EngineError, GrammarStuck
from rstitch.errors import invalid
from rstitch.service.json_schemas import LIMITS, grammar_of, refused
from rstitch.service.schema_trial import check_schema, too_many

_MAX_VOCABULARIES = 8  # that are kept: one for each set of masked tokens, of which a pair has one
_MAX_GRAMMARS = 32
_MAX_ANSWERS = 512
_MAX_WAITING = 32  # schemas that wait to be read, behind one another
_FIELD = "grammar.json_schema"
# One at a time: what others send is not to take all cores. A thread goes on after its asker has left, which a lock does
# not see.
_COMPILING = ThreadPoolExecutor(1, "grammars")

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class AskedGrammar:
    """What a run asks for, as the contract says it."""

    json_schema: str
    start: int  # the position where the answer begins
    thinking_end: str
    thinking_begin: str
    stop_tokens: frozenset[int]  # none: the model's own
    masked_tokens: frozenset[int]


class _Texts:
    """What each token that may be written says, in the form that llguidance asks for it."""

    bos_token_id = None
    special_token_ids = ()
    is_tokenizer_wrapper = True

    def __init__(self, whole: LLTokenizer, spellings: Sequence[bytes], silent: Collection[int], eos: int) -> None:
        self.eos_token_id = eos
        self.tokens = [b"" if token in silent else text for token, text in enumerate(spellings)]
        self.own: LLTokenizer | None = None  # that reads this
        self._whole = whole

    def __call__(self, text: bytes | str) -> list[int]:
        """Returns the tokens that the model would write a text by, where the schema leaves no other."""
        given = text.encode() if isinstance(text, str) else text
        tokens = self._whole.tokenize_bytes(given)
        if self.own is None or all(token < len(self.tokens) and self.tokens[token] for token in tokens):
            return tokens
        return self.own.greedy_tokenize(given.decode())


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens that a run may write; a bit for each is the lowest of its byte first."""

    tokenizer: LLTokenizer
    spellings: Sequence[bytes]  # of all tokens, also of those that no text has
    stops: tuple[int, ...]
    unbound: bytes  # bits of what may be written while nothing is bound: all but stop tokens


@dataclass(slots=True)
class Compiled:
    """A grammar as nobody has read by it yet; its lexer is common to all answers by it."""

    matcher: LLMatcher
    is_spoilt: bool = False  # an answer took more work than it may: the lexer never forgets that


@dataclass(eq=False)
class AnswerGrammar:
    """What the answer of one session must be: a `Grammar` of the engine, to be asked in its thread."""

    vocabulary: Vocabulary
    compiled: Compiled
    start: int
    thinking_end: bytes = b""
    thinking_begin: int | None = (
        None  # the token by which the answer may begin to think; None: it thinks at once, or never
    )
    _seen: array[int] = field(default_factory=lambda: array("I"))  # the answer as it was read
    _bound_from: int | None = None  # where in it the schema's text begins; None: it still thinks
    _matcher: LLMatcher | None = None  # has read what follows from there

    def allowed(self, tokens: Sequence[int], num_same: int, num: int) -> list[bytes | EngineError]:
        """As the engine's `Grammar` says."""
        found: list[bytes | EngineError] = []
        self._take_back(self._num_standing(tokens, max(0, num_same - self.start)))
        for end in range(len(tokens) - num + 1, len(tokens) + 1):
            before = found[-1] if found else None
            if before is not None and not (isinstance(before, bytes) and _has(before, tokens[end - 1])):
                # What was drafted will not be written there, so that nobody asks what would follow it.
                anything = b"\xff" * len(self.vocabulary.unbound)
                return found + [anything] * (num - len(found))
            found.append(self._after(tokens, end))
        return found

    def _num_standing(self, tokens: Sequence[int], num_same: int) -> int:
        """How much of what is kept of the answer the session still has; its first `num_same` tokens surely."""
        seen = self._seen
        if num_same >= len(seen):
            return len(seen)
        theirs, ours = array("I", tokens[self.start + num_same : self.start + len(seen)]), seen[num_same:]
        return len(seen) if theirs == ours else num_same + _common_prefix(theirs, ours)

    def _after(self, tokens: Sequence[int], end: int) -> bytes | EngineError:
        if end > self.start and tokens[end - 1] in self.vocabulary.stops:
            return self._stuck("it ended before")
        self._take_back(end - self.start)
        self._read(tokens, end)
        if self._bound_from is None:
            return self.vocabulary.unbound
        matcher = self._matcher
        assert matcher is not None, "it is there once the schema binds"
        bits = b"" if matcher.is_error() else matcher.compute_bitmask()
        if matcher.is_error():
            self.compiled.is_spoilt = True
            return self._stuck(matcher.get_error())
        made, may_end = np.frombuffer(bits, dtype=np.uint8).copy(), matcher.is_accepting()
        for stop in self.vocabulary.stops:
            made[stop >> 3] &= 0xFF ^ (1 << (stop & 7))
            made[stop >> 3] |= may_end << (stop & 7)
        if self.thinking_begin is not None and end == self.start:
            made[self.thinking_begin >> 3] |= 1 << (self.thinking_begin & 7)
        return made.tobytes() if made.any() else self._stuck("the model has no token that continues it")

    def _stuck(self, said: str) -> GrammarStuck:
        self._forget()  # an error stays in a matcher for ever
        told = f"the answer cannot go on as its schema says: {said.strip().splitlines()[0].rstrip('.')}."
        return GrammarStuck(told, field=_FIELD, remedy="Ask with another schema, or anew.")

    def _forget(self) -> None:
        self._seen, self._bound_from, self._matcher = array("I"), None, None

    def _take_back(self, num: int) -> None:
        """Keeps the first `num` tokens of the answer as read, at most."""
        num_back = len(self._seen) - num
        if num_back <= 0:
            return
        matcher, bound_from = self._matcher, self._bound_from
        if bound_from is not None and (matcher is None or num <= bound_from or not matcher.rollback(num_back)):
            self._forget()
        else:
            del self._seen[num:]

    def _read(self, tokens: Sequence[int], end: int) -> None:
        """Reads what is new of the answer."""
        num = len(self._seen)
        if not num:
            self._forget()  # where it begins to think shows by its first token
        self._seen.extend(tokens[self.start + num : end])
        if self._bound_from is None:
            self._bound_from = self._where_bound(num)
            if self._bound_from is None:
                return
            num = self._bound_from
            self._matcher = self.compiled.matcher.deep_copy()
        assert self._matcher is not None, "it is there once the schema binds"
        # Read as it was written, a mask before each token: what takes more work at once fails where that did not.
        for place, token in enumerate(self._seen[num:]):
            if place or num == self._bound_from:
                self._matcher.compute_bitmask()
            self._matcher.consume_token(token)

    def _where_bound(self, num_read: int) -> int | None:
        """Returns where the thinking is over; it was not within the first `num_read` tokens."""
        mark, begin, answer = self.thinking_end, self.thinking_begin, self._seen
        if not mark or (begin is not None and answer[:1] != array("I", [begin])):
            return 0
        text = b""
        # A token that is text has a byte at least, so that the mark begins no earlier.
        for place in range(max(0, num_read - len(mark)), len(answer)):
            text += self.vocabulary.spellings[answer[place]]
            if place >= num_read and mark in text:
                return place + 1
        return None


class Grammars:
    """The grammars and answers of one model that were used last. They are compiled off the engine's thread."""

    def __init__(self, tokenizer_file: bytes, vocab_size: int, stop_tokens: Collection[int]) -> None:
        self._file = tokenizer_file
        self._size = vocab_size
        self._stops = frozenset(stop_tokens)
        self._whole: tuple[LLTokenizer, list[bytes], frozenset[int]] | None = None
        self._vocabularies: OrderedDict[object, Vocabulary] = OrderedDict()
        self._compiled: OrderedDict[object, tuple[Vocabulary, Compiled]] = OrderedDict()
        self._answers: OrderedDict[str, tuple[AskedGrammar, AnswerGrammar]] = OrderedDict()
        self._num_waiting = 0
        self._compiling = asyncio.Lock()  # so that what many ask for is made once

    async def of(self, session_id: str, asked: AskedGrammar) -> AnswerGrammar:
        """Returns what a session's answer is held to. Raises RstitchError INVALID_ARGUMENT with the field."""
        known = self._answers.get(session_id)
        if known is not None and known[0] == asked and not known[1].compiled.is_spoilt:
            self._answers.move_to_end(session_id)
            return known[1]
        stops = (asked.stop_tokens or self._stops) - asked.masked_tokens
        grammar = (asked.json_schema, stops, asked.masked_tokens)
        if not self._is_sound(grammar):
            await self._make(grammar)
        self._compiled.move_to_end(grammar)
        answer = self._answer(asked, *self._compiled[grammar])
        _keep(self._answers, session_id, (asked, answer), _MAX_ANSWERS)
        return answer

    async def _make(self, grammar: tuple[str, frozenset[int], frozenset[int]]) -> None:
        if self._num_waiting >= _MAX_WAITING:
            raise too_many(f"{self._num_waiting} other schemas are still being read.")
        self._num_waiting += 1
        try:
            async with self._compiling:
                if not self._is_sound(grammar):
                    made = await asyncio.get_running_loop().run_in_executor(_COMPILING, self._compile, *grammar)
                    _keep(self._compiled, grammar, made, _MAX_GRAMMARS)
        finally:
            self._num_waiting -= 1

    def _is_sound(self, grammar: object) -> bool:
        kept = self._compiled.get(grammar)
        return kept is not None and not kept[1].is_spoilt

    def forget(self, session_id: str) -> None:
        """Drops what is kept of a session that is closed."""
        self._answers.pop(session_id, None)

    def _answer(self, asked: AskedGrammar, vocabulary: Vocabulary, compiled: Compiled) -> AnswerGrammar:
        begin, end = None, asked.thinking_end.encode()
        if end and asked.thinking_begin:
            text = asked.thinking_begin.encode()
            begin = next((token for token, own in enumerate(vocabulary.spellings) if own == text), None)
            if begin is None:
                end = b""  # no such token: it cannot begin to think
        return AnswerGrammar(vocabulary, compiled, asked.start, end, begin)

    def _compile(self, schema: str, stops: frozenset[int], masked: frozenset[int]) -> tuple[Vocabulary, Compiled]:
        """Runs in a thread of its own, while others are served."""
        check_schema(schema, _FIELD)  # whoever asks may be no router, which would have tried it
        grammar = grammar_of(schema, _FIELD)
        vocabulary = self._vocabularies.get((stops, masked))
        if vocabulary is None:
            vocabulary = self._vocabulary(stops, masked)
            _keep(self._vocabularies, (stops, masked), vocabulary, _MAX_VOCABULARIES)
        matcher = LLMatcher(vocabulary.tokenizer, grammar, log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise refused(_FIELD, matcher.get_error())
        compiled = Compiled(matcher)
        first = AnswerGrammar(vocabulary, compiled, 0).allowed([], 0, 1)[0]
        if not isinstance(first, bytes):
            raise refused(_FIELD, str(first))
        return vocabulary, compiled

    def _vocabulary(self, stops: frozenset[int], masked: frozenset[int]) -> Vocabulary:
        if not stops:
            remedy = "Leave one of the model's stop tokens unmasked."
            raise invalid("grammar", "no stop token is left with which the answer could end.", remedy)
        if self._whole is None:
            self._whole = self._read_vocabulary()
        whole, spellings, special = self._whole
        texts = _Texts(whole, spellings, special | stops | masked, min(stops))
        texts.own = LLTokenizer(texts, n_vocab=self._size)  # type: ignore[arg-type]
        unbound = np.packbits(
            [token not in stops and token not in masked for token in range(-(-self._size // 32) * 32)],
            bitorder="little",
        )
        return Vocabulary(texts.own, spellings, tuple(sorted(stops)), unbound.tobytes())

    def _read_vocabulary(self) -> tuple[LLTokenizer, list[bytes], frozenset[int]]:
        try:
            whole = LLTokenizer(self._file.decode())
        except ValueError as error:
            told = f"the model's tokenizer cannot be held to a schema: {error}."
            raise invalid("grammar", told, "Ask a model with another tokenizer.") from error
        spellings = [whole.decode_bytes([token]) for token in range(self._size)]
        return whole, spellings, frozenset(token for token in range(self._size) if whole.is_special_token(token))


def _keep(kept: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    kept[key] = value
    if len(kept) > most:
        kept.popitem(last=False)


def _has(bits: bytes, token: int) -> bool:
    return bool(bits[token >> 3] >> (token & 7) & 1)


def _common_prefix(left: array[int], right: array[int]) -> int:
    pairs = zip(left, right, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))
