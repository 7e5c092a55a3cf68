"""Early exit in tokens: which of them are boundaries and ends, of all kinds of pairs, and again by the next router."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from tokenizers import AddedToken
from tokenizers import Tokenizer as HfTokenizer

from router_svc.decoding.early_exit import settle
from router_svc.policies.early_exit import EarlyExit, ExitStyle
from router_svc.text.matching import Kind, Vocabulary
from router_svc.text.vocabularies import Vocabularies
from router_svc.trajectory.types import Model
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
