"""Text that goes on with other text is continued as it is, by tokenizers of every kind."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import AddedToken, models, normalizers
from tokenizers import Tokenizer as HfTokenizer

from router_svc.text.tokenizer import Tokenizer, TokenizerFiles
from tests.support.kinds_of_tokenizers import byte_level, llama_2, metaspace, served, unigram, wordpiece

RAW: dict[str, HfTokenizer] = {
    "byte-level": byte_level(),
    "byte-level, a space first": byte_level(prefix_space=True),
    "byte-level, NFC": byte_level(normalizer=normalizers.NFC()),
    "Llama-2": llama_2(),
    "Metaspace, first": metaspace("first"),
    "Metaspace, always": metaspace("always"),
    "Metaspace, never": metaspace("never"),
    "Metaspace, strips": metaspace("always", strips=True),
}
KINDS = {name: served(raw) for name, raw in RAW.items()}
GOES_ON = [
    "more",
    " more",
    "   more",
    "\n\nmore \n",
    "é",
    "e\u0301",
    "👩\u200d👧世 界",
    "\u0301x",
    "a </s> more<|pad|>more",
    "<think> x",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", GOES_ON)
def test_text_is_continued_as_it_is(kind: str, text: str) -> None:
    tokenizer = KINDS[kind]
    for begin in ("The wo", "x. ", "世", "</s>no"):
        before = tokenizer.encode(begin, begins=True)
        tokens = tokenizer.encode(text, begins=False)
        assert tokenizer.spelled(before + tokens) == tokenizer.spelled(before) + text
        if "<" not in text:
            assert tokenizer.decode(before + tokens) == tokenizer.decode(before) + text
        assert tokenizer.spelled_answer(tokens, ()) == text


@pytest.mark.parametrize("kind", KINDS)
def test_the_beginning_of_a_session_is_as_the_tokenizer_has_it(kind: str) -> None:
    for text in GOES_ON:
        assert list(KINDS[kind].encode(text, begins=True)) == RAW[kind].encode(text).ids
        assert (
            list(KINDS[kind].encode_rendered(text, begins=True)) == RAW[kind].encode(text, add_special_tokens=False).ids
        )


# A conversation and where in it an answer ends that is kept.
RENDERED = [
    ("<s>[INST] more [/INST] one", " </s><s>[INST] more [/INST]"),
    ("<s>[INST] more [/INST] one ", "</s><s>[INST] more é [/INST]"),
    ("<s>user\nmore\nassistant\none", "<|im_end|>\nuser\n more\nassistant\n"),
    ("USER: x ASSISTANT: one", "\nUSER: e\u0301 ASSISTANT:"),
    ("<s> one", " </s> <think> more"),
]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "strips" not in kind])
@pytest.mark.parametrize(("before", "after"), RENDERED)
def test_a_later_turn_has_the_tokens_of_the_whole_conversation(kind: str, before: str, after: str) -> None:
    tokenizer = KINDS[kind]
    whole = tokenizer.encode_rendered(before + after, begins=True)
    begun = tokenizer.encode_rendered(before, begins=True)
    assert begun + tokenizer.encode_rendered(after, begins=False) == whole


def test_what_special_tokens_take_in_a_template_is_kept_in_an_answer() -> None:
    """As Phi-3's, whose tokens take the blanks behind them."""
    raw: Any = byte_level()
    raw.add_special_tokens([AddedToken("<|end|>", special=True, normalized=False, rstrip=True)])
    tokenizer = served(raw)
    text = "x<|end|>\nmore"
    assert tokenizer.spelled(tokenizer.encode_rendered(text, begins=False)) == "x<|end|>more"
    assert tokenizer.spelled_answer(tokenizer.encode(text, begins=False), ()) == text


def test_an_answer_is_spelled_without_its_stop_tokens() -> None:
    for tokenizer in KINDS.values():
        space, think, pad, stop = (
            tokenizer.encode(text, begins=False) for text in (" x", "<think>", "<|pad|>", "</s>")
        )
        tokens = space + think + space + pad + stop
        assert tokenizer.spelled_answer(tokens, set(stop)) == " x<think> x<|pad|>"
        assert tokenizer.encode(" x<think> x<|pad|>", begins=False) == space + think + space + pad


@pytest.mark.parametrize("kind", KINDS)
def test_vocabularies_that_spell_everything_give_texts_back(kind: str) -> None:
    assert KINDS[kind].round_trips() is None


def test_the_first_text_that_does_not_come_back_is_named() -> None:
    assert served(wordpiece()).round_trips() == "The answer is 12."
    assert served(unigram()).round_trips() == " one  two   three "
    without_bytes: Any = HfTokenizer(models.BPE({letter: index for index, letter in enumerate("The answris 12.")}, []))
    assert served(without_bytes).round_trips() not in (None, "")


def test_the_second_tokenizer_has_the_same_ids() -> None:
    for raw in RAW.values():
        tokenizer = served(raw)
        for special in ("</s>", "<|im_end|>", "<think>"):
            assert list(tokenizer.encode(special, begins=False)) == [raw.token_to_id(special)]


def with_holes() -> Tokenizer:
    """Ids far above the number of entries, as where rows of a model were taken out."""
    vocab = {"a": 0, "▁": 3, "Wait": 700, "\n\n": 900, "▁Wait": 1000}
    raw: Any = HfTokenizer(models.BPE(vocab, []))
    raw.decoder = metaspace("always").decoder
    return Tokenizer(TokenizerFiles(raw.to_str().encode()))


def test_ids_above_the_number_of_entries_are_found() -> None:
    tokenizer = with_holes()
    assert tokenizer.size() == 1001
    assert tokenizer.containing("Wait") == {700, 1000}
    assert tokenizer.containing(" Wait") == {1000}
    assert tokenizer.containing("\n") == {900}
    assert [tokenizer.spelling(token) for token in (1000, 500, 1001)] == ["▁Wait", None, None]
