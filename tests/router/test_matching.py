"""Which id of one model is which of the other, on stand-ins of known models.

Facts, from the models' published files: special tokens, their ids and order, what ends an answer. Stand-ins: the text
entries, few instead of many (`tests/support/known_tokenizers.py`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from router_svc.text.matching import Kind, match
from router_svc.text.views import MappedView
from router_svc.text.vocabularies import Vocabularies
from router_svc.trajectory.types import Model, tokens_of
from tests.support import known_tokenizers as known
from tests.support.known_tokenizers import Known
from tests.support.vocabularies import check_laws, matched, vocabulary

SLM, LLM = Model.SLM, Model.LLM


def published(of: Known, tokens: Sequence[int]) -> set[int]:
    """The published ids of a stand-in's special tokens."""
    back = {of.id_of(number): number for number in of.added}
    return {back[token] for token in tokens}


def test_l1_and_r1_distill_have_one_vocabulary_and_two_templates() -> None:
    matching = matched(known.L1_SHORT, known.R1_DISTILL_QWEN_7B)
    assert matching.kind is Kind.SAME
    assert matching.masked == {SLM: (), LLM: ()}
    assert (len(matching.to_llm), len(matching.to_slm)) == (0, 0)
    assert matching.told == f"one vocabulary of {known.L1_SHORT.size} tokens"
    assert known.L1_SHORT.chat_template != known.R1_DISTILL_QWEN_7B.chat_template


def test_the_papers_32b_pair_is_renumbered() -> None:
    """One id, two meanings: 151644 is the user to L1 and the start of a message to QwQ."""
    slm, llm = known.L1_SHORT, known.QWQ_32B
    matching = matched(slm, llm)
    assert matching.kind is Kind.RENUMBERED
    for text in ("<think>", "</think>", "<|fim_prefix|>", "<tool_call>"):
        assert matching.to_llm[slm.token(text)] == llm.token(text)
        assert matching.to_slm[llm.token(text)] == slm.token(text)
    assert slm.id_of(151648) == slm.token("<think>")
    assert matching.to_llm[slm.id_of(151648)] == llm.id_of(151667)
    # Both ends that QwQ knows are L1's end; L1's end is the one that QwQ's tokenizer names.
    assert matching.to_llm[slm.id_of(151643)] == llm.token("<|im_end|>") == llm.id_of(151645)
    assert matching.to_slm[llm.id_of(151645)] == matching.to_slm[llm.id_of(151643)] == slm.id_of(151643)
    assert published(slm, matching.masked[SLM]) == {151644, 151645, 151646, 151647}
    assert published(llm, matching.masked[LLM]) == {151644, *range(151646, 151650), 151665, 151666}
    text = range(slm.token("<｜end▁of▁sentence｜>"))
    assert list(matching.to_llm[: len(text)]) == list(text)


def test_v1s_pair_is_renumbered_and_the_marks_of_thinking_are_masked() -> None:
    slm, llm = known.QWEN25_MATH_OAT_ZERO, known.R1_DISTILL_QWEN_7B
    matching = matched(slm, llm)
    assert matching.kind is Kind.RENUMBERED
    assert matching.to_llm[slm.token("<|endoftext|>")] == llm.token("<｜end▁of▁sentence｜>")
    assert matching.to_slm[llm.token("<｜end▁of▁sentence｜>")] == slm.token("<|endoftext|>")
    assert published(slm, matching.masked[SLM]) == set(range(151644, 151650))
    assert published(llm, matching.masked[LLM]) == set(range(151644, 151650))
    assert "<think>" in matching.told


def test_qwen3_has_one_vocabulary() -> None:
    matching = matched(known.QWEN3_SMALL, known.QWEN3_32B)
    assert matching.kind is Kind.SAME
    assert not any(matching.masked.values())


def test_a_later_release_that_only_adds_tokens_is_the_same_with_those_masked() -> None:
    slm, llm = known.QWEN25_CODER, known.QWEN3_32B
    matching = matched(slm, llm)
    assert matching.kind is Kind.SAME
    assert matching.masked[SLM] == ()
    assert published(llm, matching.masked[LLM]) == {151665, 151666, 151667, 151668}
    assert matching.told.endswith("masked: LLM " + ", ".join(f"{t} {llm.tokenizer.id_to_token(t)}" for t in range(
        llm.size - 4, llm.size)))  # fmt: skip


@pytest.mark.parametrize("slm", [known.LLAMA32_BASE, known.LLAMA32_INSTRUCT], ids=["base", "instruct"])
def test_llama_beside_r1_distill_llama(slm: Known) -> None:
    llm = known.R1_DISTILL_LLAMA_70B
    matching = matched(slm, llm)
    assert matching.kind is Kind.RENUMBERED
    end = llm.token("<｜end▁of▁sentence｜>")
    assert matching.to_llm[slm.token("<|end_of_text|>")] == end
    assert matching.to_slm[end] == slm.token(slm.eos)
    assert matching.to_llm[slm.token("<|eot_id|>")] == llm.token("<|eot_id|>")
    assert published(llm, matching.masked[LLM]) == {128000, *range(128011, 128016)}
    assert published(slm, matching.masked[SLM]) == {128000, *range(128011, 128016)}


def test_an_answer_ends_at_what_ends_it_for_either_model_and_each_run_is_told_all_of_it() -> None:
    """The SLM has three ends. Two are known to the LLM, as tokens that end nothing; the third is spelled otherwise."""
    slm, llm = known.LLAMA32_INSTRUCT, known.R1_DISTILL_LLAMA_70B
    vocabularies = Vocabularies.of(vocabulary(slm), vocabulary(llm))
    ends = frozenset(map(llm.token, ("<｜end▁of▁sentence｜>", "<|eom_id|>", "<|eot_id|>")))
    assert vocabularies.stop_tokens == {SLM: ends, LLM: ends}
    view = MappedView(tokens_of(), vocabularies)
    assert view.own_ends(ends) == slm.stop_tokens
    assert view.own_ends(ends - {llm.token("<|eom_id|>")}) == slm.stop_tokens - {slm.token("<|eom_id|>")}
    assert view.to_answer([slm.token("<|end_of_text|>")]) == [llm.token("<｜end▁of▁sentence｜>")]


def test_a_base_model_beside_its_instruct_model_is_the_same_and_each_ends_answers() -> None:
    base, instruct = vocabulary(known.LLAMA32_BASE), vocabulary(known.LLAMA32_INSTRUCT)
    matching = match(base, instruct)
    assert matching.kind is Kind.SAME
    both = known.LLAMA32_INSTRUCT.stop_tokens | known.LLAMA32_BASE.stop_tokens
    assert Vocabularies.of(base, instruct).stop_tokens == {SLM: both, LLM: both}


def test_mistrals_control_tokens_moved_all_others() -> None:
    slm, llm = known.MISTRAL_V1, known.MISTRAL_V3
    matching = matched(slm, llm)
    assert matching.kind is Kind.RENUMBERED
    assert matching.masked[SLM] == ()
    assert published(llm, matching.masked[LLM]) == set(range(3, 771))
    assert [matching.to_llm[token] for token in range(5)] == [0, 1, 2, 771, 772]
    assert matching.to_llm[slm.token("▁the")] == llm.token("▁the") == slm.token("▁the") + 768
    named, _, more = matching.told.rpartition(" and ")
    assert more == "756 more"
    assert named.count("[") == 7 + 5


@pytest.mark.parametrize(
    ("slm", "llm"),
    [
        (known.LLAMA32_INSTRUCT, known.QWEN3_32B),
        (known.MISTRAL_V1, known.QWQ_32B),
        (known.GEMMA2, known.MISTRAL_V3),
        (known.R1_DISTILL_QWEN_7B, known.R1_DISTILL_LLAMA_70B),
    ],
    ids=["llama-qwen", "mistral-qwen", "gemma-mistral", "r1-qwen-r1-llama"],
)
def test_models_of_two_families_go_through_text(slm: Known, llm: Known) -> None:
    matching = matched(slm, llm)
    assert matching.kind is Kind.UNRELATED
    assert not any(matching.masked.values())
    assert (len(matching.to_llm), len(matching.to_slm)) == (0, 0)
    assert matching.told.startswith("through text: ")


@pytest.mark.parametrize(("slm", "llm"), list(itertools.product(known.ALL, known.ALL)), ids=lambda one: one.hub_id)
def test_any_two_of_the_known_models(slm: Known, llm: Known) -> None:
    ours, theirs = vocabulary(slm), vocabulary(llm)
    matching = match(ours, theirs)
    assert (matching.kind is Kind.UNRELATED) == (slm.family != llm.family)
    assert "\n" not in matching.told
    if matching.kind is not Kind.UNRELATED:
        check_laws(matching, ours, theirs)
