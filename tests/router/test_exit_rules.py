"""Early exit in tokens: which of them are boundaries and ends, of all kinds of pairs, and again by the next router."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from tokenizers import AddedToken
from tokenizers import Tokenizer as HfTokenizer

from router_svc.decoding.early_exit import Exits, settle
from router_svc.policies.early_exit import EarlyExit, ExitStyle
from router_svc.text.matching import Kind, Vocabulary
from router_svc.text.session_tokens import SessionTokens
from router_svc.text.text_view import TextView
from router_svc.text.vocabularies import Vocabularies
from router_svc.trajectory.types import Chunk, Model, Source, entropies_of, tokens_of
from rstitch.errors import InvalidArgument
from tests.support.vocabularies import MERGES, PIECES, byte_level, made

SLM, LLM = Model.SLM, Model.LLM
ASKED = EarlyExit(0.9, ExitStyle(end="d", prompt="so "), 0)


def with_words(raw: HfTokenizer, words: Sequence[str]) -> Vocabulary:
    """With more tokens behind the others, which are no special ones."""
    raw.add_tokens([AddedToken(word, normalized=False) for word in words])
    return made(raw, ["<end>"])


def unrelated(of_slm: Sequence[str], of_llm: Sequence[str]) -> Vocabularies:
    other = byte_level(["<end>", *PIECES, "ed"], merges=[*MERGES, ("e", "d")])
    found = Vocabularies.of(with_words(byte_level(), of_slm), with_words(other, of_llm))
    assert found.matching.kind is Kind.UNRELATED
    return found


def asking(*boundaries: str) -> EarlyExit:
    return replace(ASKED, style=replace(ASKED.style, boundaries=boundaries))


@pytest.mark.parametrize(
    ("asked", "default"),
    [
        (asking(), ExitStyle()),
        (asking(), ExitStyle(boundaries=("Wait", "Hmm", "Hence", "x"))),
        (asking("Hmm", "x"), ExitStyle(boundaries=("Wait",))),
        (asking("x"), ExitStyle()),
    ],
    ids=["in the common way", "the router's own", "some that one model lacks", "that both have"],
)
def test_what_was_settled_is_settled_alike_by_another_router(asked: EarlyExit, default: ExitStyle) -> None:
    vocabularies = unrelated(["\n\n", "Hence", "Wait"], ["\n\n", "Wait", "Alternatively", "Hmm"])
    rules = settle(asked, default, vocabularies)
    for other in (default, ExitStyle(), ExitStyle(boundaries=("nowhere",))):
        assert settle(rules[LLM].settings, other, vocabularies) == rules
    assert rules[SLM].settings == rules[LLM].settings
    assert rules[SLM].boundaries
    for model in Model:
        texts = {vocabularies.tokenizer(model).spelled([token]) for token in rules[model].boundaries}
        assert all(any(text in one for text in rules[LLM].settings.style.boundaries) for one in texts)


def test_boundaries_that_a_model_has_none_of_are_refused_by_model() -> None:
    vocabularies = unrelated([], ["Hmm"])
    with pytest.raises(InvalidArgument, match="no token of the SLM contains") as caught:
        settle(asking("Hmm"), ExitStyle(), vocabularies)
    assert caught.value.field == "early_exit.boundaries"


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("model", list(Model))
def test_tokens_that_a_model_has_no_row_for_are_no_boundaries(kind: Kind, model: Model) -> None:
    words = ["Wait", "Wait!"]
    ours = with_words(byte_level(), words)
    theirs = {
        Kind.SAME: with_words(byte_level(), words),
        Kind.RENUMBERED: with_words(byte_level(["<end>", *PIECES], ["<end>"]), words),
        Kind.UNRELATED: with_words(byte_level(["<end>", *PIECES, "ed"], merges=[*MERGES, ("e", "d")]), words),
    }[kind]
    sides = {SLM: ours, LLM: theirs}
    short = sides[model] = replace(sides[model], size=sides[model].size - 1)
    vocabularies = Vocabularies.of(sides[SLM], sides[LLM])
    assert vocabularies.matching.kind is kind
    rules = settle(asking("Wait"), ExitStyle(), vocabularies)
    for author, own in rules.items():
        tokenizer = vocabularies.answer_tokenizers[author]
        known = words[:1] if author is model or kind is not Kind.UNRELATED else words
        assert own.boundaries == {tokenizer.token(word) for word in known}
    with pytest.raises(InvalidArgument) as caught:
        settle(asking("Wait!"), ExitStyle(), vocabularies)
    assert (caught.value.field or "").startswith("early_exit.boundaries")
    prompt = replace(ASKED, style=ExitStyle(("x",), "a Wait!", "d"))
    with pytest.raises(InvalidArgument) as caught:
        settle(prompt, ExitStyle(), vocabularies)
    assert (caught.value.field or "").startswith("early_exit.prompt")
    assert short.tokenizer.size() > short.size


def answer_of(vocabularies: Vocabularies, marker: str) -> tuple[SessionTokens, Exits]:
    rules = settle(replace(asking("x"), style=ExitStyle(("x",), "so ", "d", marker)), ExitStyle(), vocabularies)
    session = SessionTokens([Chunk(Source.PROMPT, 0, tokens_of([3, 4]), entropies_of())], vocabularies)
    return session, Exits(rules, session, 2, False)


@pytest.mark.parametrize("seed", range(4))
def test_the_end_of_the_thinking_is_found_in_text_wherever_it_lies(seed: int) -> None:
    """Across writers, tokens and the bytes of a character, whenever it is looked for."""
    rng = random.Random(seed)
    vocabularies = unrelated([], [])
    found = set()
    for _ in range(40):
        marker = rng.choice(["ab", "éa", "a世", "aba", "x"])
        session, exits = answer_of(vocabularies, marker)
        view = session.views[LLM]
        assert isinstance(view, TextView)
        over = False
        for _ in range(rng.randrange(1, 5)):
            writer = rng.choice(list(Model))
            session.begin_segment(writer)
            text = "".join(rng.choices("abé世", k=rng.randrange(6)))
            tokens = vocabularies.tokenizer(writer).encode(text, begins=False)
            for token in tokens[: rng.randrange(len(tokens) + 1)]:
                session.keep(writer, tokens_of([token]))
                if rng.random() < 0.4:
                    over = over or marker in view.text
                    assert exits.thinking is not over
        found.add(over)
    assert found == {False, True}


def test_the_end_of_the_thinking_is_looked_for_in_new_text_only(monkeypatch: pytest.MonkeyPatch) -> None:
    vocabularies = unrelated([], [])
    session, exits = answer_of(vocabularies, "</think>")
    read: list[str] = []
    spelled = SessionTokens.spelled

    def recorded(session: SessionTokens, begin: int) -> tuple[str, int]:
        text, upto = spelled(session, begin)
        read.append(text)
        return text, upto

    monkeypatch.setattr(SessionTokens, "spelled", recorded)
    for index in range(60):
        if index % 20 == 0:
            session.begin_segment(SLM if index % 40 else LLM)
        writer = SLM if index // 20 == 1 else LLM
        session.keep(writer, vocabularies.tokenizer(writer).encode("the thought goes on ", begins=False))
        assert exits.thinking
    assert len("".join(read)) < 2 * 60 * len("the thought goes on ")
    assert len(read) == 60
