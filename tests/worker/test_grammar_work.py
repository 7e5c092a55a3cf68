"""An answer whose schema takes more work than it may: it alone fails, and not by being read again."""

from __future__ import annotations

import json

import pytest
from llguidance import LLParserLimits

import model_worker.grammars
from model_worker.engine.errors import GrammarStuck
from model_worker.grammars import AskedGrammar, Grammars
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
    allowed = [first.allowed(answer[:num], 1)[0] for num in range(len(answer))]
    stuck = next(num for num, found in enumerate(allowed) if isinstance(found, GrammarStuck))
    assert stuck > 5
    again = await kept.of("t", ASKED)
    assert again.allowed([], 1)[0] == allowed[0]
    elsewhere = await grammars().of("s", ASKED)  # as a worker reads it that takes the session over
    assert elsewhere.allowed(answer[: stuck - 1], 1)[0] == allowed[stuck - 1]
