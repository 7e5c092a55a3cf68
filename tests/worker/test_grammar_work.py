"""An answer whose schema takes more work than it may: it alone fails, and not by being read again."""

from __future__ import annotations

import json
import random
from array import array
from typing import Any

import pytest
from llguidance import LLParserLimits

import model_worker.grammars
from model_worker.engine.bookkeeping.session import Session
from model_worker.engine.errors import GrammarStuck
from model_worker.grammars import AnswerGrammar, AskedGrammar, Grammars
from tests.support.pairs import STOP_TOKEN, VOCAB_SIZE, make_tokenizer

PATTERNS = [f"^(a|b)*a(a|b){{{index % 17 + 2}}}c{index}x.*$" for index in range(20)]
HEAVY = json.dumps(
    {
        "type": "object",
        "properties": {"a": {"anyOf": [{"type": "string", "pattern": pattern} for pattern in PATTERNS]}},
        "required": ["a"],
        "additionalProperties": False,
    }
)
ASKED = AskedGrammar(HEAVY, 0, "", "", frozenset(), frozenset())


def grammars() -> Grammars:
    file: str = make_tokenizer().backend_tokenizer.to_str()
    return Grammars(file.encode(), VOCAB_SIZE, {STOP_TOKEN})


async def test_work_beyond_the_bound_ends_one_answer_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = LLParserLimits(max_grammar_size=200_000, step_lexer_fuel=6_000, step_max_items=30_000)
    monkeypatch.setattr(model_worker.grammars, "LIMITS", limits)
    kept = grammars()
    answer = make_tokenizer().encode('{"a":"' + "abbab" * 6, add_special_tokens=False)
    first = await kept.of("s", ASKED)
    allowed = [first.allowed(answer[:num], 0, 1)[0] for num in range(len(answer))]
    stuck = next(num for num, found in enumerate(allowed) if isinstance(found, GrammarStuck))
    assert stuck > 5
    again = await kept.of("t", ASKED)
    assert again.allowed([], 0, 1)[0] == allowed[0]
    elsewhere = await grammars().of("s", ASKED)  # as a worker reads it that takes the session over
    assert elsewhere.allowed(answer[: stuck - 1], 0, 1)[0] == allowed[stuck - 1]


class Counting(array):  # type: ignore[type-arg]
    """A session's tokens, and how many of them were read."""

    num_read = 0

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        self.num_read += len(found) if isinstance(place, slice) else 1
        return found


def think(text: str) -> list[int]:
    return make_tokenizer().encode(text, add_special_tokens=False)  # type: ignore[no-any-return]


async def test_a_long_thinking_is_read_once_and_not_at_every_token() -> None:
    asked = AskedGrammar('{"type": "object"}', 3, "</think>", "", frozenset(), frozenset())
    grammar = await grammars().of("s", asked)
    session = Session("s", Counting("I", [5, 6, 7]))
    thought, num = think("what if it is so "), 2000
    for place in range(num):
        session.tokens.append(thought[place % len(thought)])
        assert grammar.allowed(session.tokens, session.num_same(grammar), 1) == [grammar.vocabulary.unbound]
        if place % 5 == 0:  # as a draft that was not kept, or a handoff
            session.cut(session.held - 1)
    assert session.tokens.num_read < 6 * num  # type: ignore[attr-defined]
    session.tokens.extend(think("</think>"))
    (bound,) = grammar.allowed(session.tokens, session.num_same(grammar), 1)
    assert isinstance(bound, bytes)
    assert bound != grammar.vocabulary.unbound


@pytest.mark.parametrize("seed", range(3))
async def test_what_may_come_is_a_function_of_the_tokens_whatever_was_read_before(seed: int) -> None:
    rng, kept = random.Random(seed), grammars()
    schema = '{"type": "array", "items": {"type": "integer"}}'
    asked = AskedGrammar(schema, 2, "</think>" if seed else "", "", frozenset(), frozenset())
    one, other = await kept.of("s", asked), await kept.of("t", asked)
    session = Session("s", array("I", [5, 6]))
    parts = [think(text) for text in ("<think>", "hm ", "</think>", "[", "12", ",", "3", "]", " ")]
    for _ in range(300):
        if rng.random() < 0.3:
            session.cut(rng.randint(2, session.held))
        session.tokens.extend(rng.choice(parts))
        num = rng.randint(1, min(3, session.held - 1))
        reader = one if rng.random() < 0.8 else other
        fresh = AnswerGrammar(one.vocabulary, one.compiled, 2, one.thinking_end, one.thinking_begin)
        expected = fresh.allowed(session.tokens, 0, num)
        found = reader.allowed(session.tokens, session.num_same(reader), num)
        assert [each if isinstance(each, bytes) else str(each) for each in found] == [
            each if isinstance(each, bytes) else str(each) for each in expected
        ]
