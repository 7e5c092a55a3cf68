"""Laws of the tiny pair's data: disjoint splits, right chains, a tokenizer for any text, no loss at style decisions."""

from __future__ import annotations

import random

import pytest
from transformers import PreTrainedTokenizerFast

from evals.tasks.tiny import arithmetic as task
from evals.tasks.tiny.arithmetic import Problem, check_disjoint, extract_answer, is_correct, problems, split_of
from evals.tasks.tiny.domain import Style
from evals.tasks.tiny.words import WORDS, line
from training.tiny.chains import MIXTURES, chain, text
from training.tiny.data import IGNORE, answer_segments, batches, conversation, encode
from training.tiny.tokenizer import MAX_ENTRIES, SPECIAL, THINK, train_tokenizer

STYLES: tuple[Style, ...] = ("short", "verbose")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(WORDS)


def test_splits_are_disjoint() -> None:
    check_disjoint(n_train=1_500, n_held_out=300)


def test_a_rewording_stays_in_its_split() -> None:
    a, *_ = problems("test", 1)
    b = Problem("Other words.", a.steps, a.answer, "Zoe", "plums")
    assert split_of(a) == split_of(b) == "test"


def test_the_generator_is_deterministic_and_its_prefixes_agree() -> None:
    assert problems("test", 50) == problems("test", 200)[:50]
    assert problems("train", 20, seed=1) != problems("train", 20, seed=2)
    assert problems("dev", 1)[0].canonical == problems("dev", 1)[0].canonical


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split must be one of"):
        problems("validation", 1)


def test_steps_follow_from_each_other_and_stay_in_range() -> None:
    calculate = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__floordiv__}
    for problem in problems("train", 1_000):
        assert task.MIN_STEPS <= len(problem.steps) <= task.MAX_STEPS
        for step in problem.steps:
            assert step.result == calculate[step.op](step.left, step.right)
            assert 0 < step.result <= task.MAX_VALUE
            assert step.op != "/" or step.left % step.right == 0
        assert problem.answer == problem.steps[-1].result


@pytest.mark.parametrize("own", STYLES)
def test_every_chain_is_right(own: Style) -> None:
    rng = random.Random(0)
    for problem in problems("train", 300):
        assert is_correct(text(chain(WORDS, problem, own)), problem)
        assert is_correct(text(chain(WORDS, problem, own, rng)), problem)


def test_the_last_box_is_the_answer() -> None:
    assert extract_answer(r"\boxed{1} no, \boxed{ 23 }.") == 23
    assert extract_answer("23") is None


def test_examples_are_held_out_and_varied() -> None:
    asked = task.examples(10)
    assert len(set(asked)) == 10
    assert set(asked) <= {p.question for p in problems("test", 200)}


def test_any_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    for sample in (
        "Mia has 47 shells.",
        "  a\t\n\n b ",
        "héllo 日本語 🙂 ½ \x00",
        "<think>\n1\n</think>",
        "1 2  34.5,6",
    ):
        assert tokenizer.decode(tokenizer.encode(sample)) == sample


def test_the_vocabulary_is_small_and_digits_stand_apart(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) <= MAX_ENTRIES
    for entry in tokenizer.get_vocab():
        assert len(entry) == 1 or not any(c.isdigit() for c in entry)


def test_only_the_tags_of_thinking_stay_visible(tokenizer: PreTrainedTokenizerFast) -> None:
    assert set(SPECIAL) == set(tokenizer.all_special_tokens)
    for tag in THINK:
        assert len(tokenizer.encode(tag)) == 1
        assert tokenizer.decode(tokenizer.encode(tag), skip_special_tokens=True) == tag


def test_the_chat_template_is_what_training_writes(tokenizer: PreTrainedTokenizerFast) -> None:
    problem = problems("train", 1)[0]
    chat = [{"role": "user", "content": problem.question}]
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    seeds = (conversation(WORDS, problem, "short", random.Random(seed)) for seed in range(100))
    plain = next(c for c in seeds if c[0].text == "<|begin|>")
    assert prompt == plain[0].text + plain[1].text


def test_styles_differ_from_the_first_token(tokenizer: PreTrainedTokenizerFast) -> None:
    for problem in problems("train", 100):
        for step in problem.steps:
            assert tokenizer.encode(line(step, "short"))[0] != tokenizer.encode(line(step, "verbose"))[0]


@pytest.mark.parametrize("own", STYLES)
def test_loss_is_off_at_style_decisions_and_nowhere_else(own: Style, tokenizer: PreTrainedTokenizerFast) -> None:
    other: Style = "verbose" if own == "short" else "short"
    rng = random.Random(3)
    num_off = 0
    for problem in problems("train", 200):
        pieces = chain(WORDS, problem, own, rng)
        ((ids, labels),) = encode(tokenizer, [answer_segments(pieces)])
        assert ids == tokenizer.encode(text(pieces) + "<|end|>")
        foreign = {line(step, other) for step in problem.steps}
        expected, place = set(), 0
        for piece in pieces:
            if piece.text in foreign:
                expected.add(place)
            place += len(tokenizer.encode(piece.text))
        assert {i for i, label in enumerate(labels) if label == IGNORE} == expected
        assert all(label in (IGNORE, token) for token, label in zip(ids, labels, strict=True))
        num_off += len(expected)
    assert num_off > 100
    assert sum(share for share, _ in MIXTURES[own]) == pytest.approx(1.0)


def test_a_resumed_stream_goes_on_where_it_was(tokenizer: PreTrainedTokenizerFast) -> None:
    whole, rest = batches(WORDS, tokenizer, "short", 5, 2_048), batches(WORDS, tokenizer, "short", 5, 2_048, first=3)
    for _ in range(3):
        next(whole)
    assert next(whole).ids.equal(next(rest).ids)
