"""Laws of the second domain: Python itself agrees with every trace, and the pair's data keep the laws of the first."""

from __future__ import annotations

import contextlib
import io
import random
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from evals.tasks.tiny.domain import Style
from evals.tasks.tiny.domains import DOMAINS
from evals.tasks.tiny.programs import PROGRAMS, line
from evals.tasks.tiny.programs_task import MAX_VALUE, Problem, check_disjoint, is_correct, problems, split_of
from training.tiny.chains import chain, text
from training.tiny.export import export
from training.tiny.recipe import PARTNERS, RECIPES
from training.tiny.tokenizer import MAX_ENTRIES, MAX_LENGTH, train_tokenizer
from training.tiny.train import MODELS, begin_with, new_model


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(PROGRAMS, num_problems=2_000)


def run(program: str) -> dict[str, object]:
    """What Python makes of it: its variables, and what it printed under ''."""
    variables: dict[str, object] = {"__builtins__": {"print": print, "len": len, "max": max}}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(program, variables)  # our own generator wrote it
    return {name: value for name, value in variables.items() if len(name) == 1} | {"": printed.getvalue().strip()}


def test_python_prints_the_answer_and_ends_with_the_values_of_the_trace() -> None:
    for problem in problems("train", 800):
        found = run(problem.program)
        assert found[""] == problem.answer
        last = dict(step.result.rpartition(";")[2].split("=") for step in problem.steps if "=" in step.result)
        for name, value in last.items():
            expected = found[name]
            assert value == (",".join(map(str, expected)) if isinstance(expected, list) else str(expected))
            assert not isinstance(expected, int) or 0 <= expected <= MAX_VALUE


def test_every_kind_of_statement_occurs() -> None:
    kinds = {step.kind for problem in problems("train", 300) for step in problem.steps}
    assert kinds == {
        "set", "list", "calculate+", "calculate-", "calculate*", "item", "len", "max", "append", "pop", "reverse",
        "sort", "if", "next",
    }  # fmt: skip
    assert any("else:" in problem.program for problem in problems("dev", 50))


def test_splits_are_disjoint_whatever_the_variables_are_called() -> None:
    check_disjoint(n_train=1_000, n_held_out=100)
    problem = problems("dev", 1)[0]
    names = dict(zip("abcdefpqs", "bcdefaqsp", strict=True))
    renamed = re.sub(r"\b[a-fpqs]\b", lambda found: names[found[0]], problem.question)
    other = Problem(renamed, problem.steps, problem.answer)
    assert renamed != problem.question
    assert split_of(other) == split_of(problem) == "dev"


@pytest.mark.parametrize("own", ["short", "verbose"])
def test_every_chain_is_right_and_fits(own: Style, tokenizer: PreTrainedTokenizerFast) -> None:
    rng = random.Random(0)
    for problem in problems("train", 200):
        for answer in (text(chain(PROGRAMS, problem, own)), text(chain(PROGRAMS, problem, own, rng))):
            assert is_correct(answer, problem)
            assert len(tokenizer.encode(answer)) < PROGRAMS.max_new_tokens < MAX_LENGTH


def test_the_answer_is_judged_whatever_its_blanks() -> None:
    problem = next(p for p in problems("dev", 50) if p.answer.startswith("["))
    assert is_correct(f"It prints \\boxed{{{problem.answer.replace(' ', '')}}}.", problem)
    assert not is_correct(f"It prints {problem.answer}.", problem)
    assert not is_correct(f"\\boxed{{{problem.answer}}} or \\boxed{{[]}}", problem)


def test_styles_differ_from_the_first_token(tokenizer: PreTrainedTokenizerFast) -> None:
    for problem in problems("train", 100):
        for step in problem.steps:
            assert tokenizer.encode(line(step, "short"))[0] != tokenizer.encode(line(step, "verbose"))[0]


def test_lines_tokenize_alone_as_together(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) <= MAX_ENTRIES
    for problem in problems("train", 50):
        pieces = chain(PROGRAMS, problem, "short", random.Random(1))
        alone = [token for piece in pieces for token in tokenizer.encode(piece.text)]
        assert alone == tokenizer.encode(text(pieces))


def test_recipes_name_domains_and_partners_that_exist() -> None:
    assert {recipe.domain for recipe in RECIPES.values()} <= set(DOMAINS)
    for slm, llm in PARTNERS.items():
        assert RECIPES[slm].domain == RECIPES[llm].domain
        assert (RECIPES[slm].own, RECIPES[llm].own) == ("short", "verbose")


def test_a_run_that_begins_with_another_models_weights_has_them_token_for_token(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    recipe = RECIPES["tiny-programs-slm"]
    assert recipe.begin is not None
    given = AutoModelForCausalLM.from_pretrained(MODELS / recipe.begin, dtype=torch.float32)
    model, untouched = new_model(recipe, tokenizer), new_model(recipe, tokenizer)
    begin_with(model, tokenizer, MODELS / recipe.begin)
    for name, weight in given.model.layers.state_dict().items():
        assert torch.equal(model.model.layers.state_dict()[name], weight)
    rows = AutoTokenizer.from_pretrained(MODELS / recipe.begin).get_vocab()
    embedding, fresh = model.get_input_embeddings().weight, untouched.get_input_embeddings().weight
    assert embedding is model.lm_head.weight
    for token, place in tokenizer.get_vocab().items():
        source = given.get_input_embeddings().weight[rows[token]] if token in rows else fresh[place]
        assert torch.equal(embedding[place], source)


@pytest.mark.parametrize("name", ["tiny-programs-slm", "tiny-programs-llm"])
def test_what_is_exported_loads_and_its_card_says_where_it_comes_from(
    name: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.tiny.tokenizer.train_tokenizer", lambda domain: tokenizer)
    model = new_model(RECIPES[name], tokenizer)
    torch.save({"average": model.state_dict(), "step": 7, "seconds": 60.0, "loss": 0.5}, tmp_path / "checkpoint.pt")
    folder = export(name, tmp_path / "checkpoint.pt", tmp_path / name, figures=[])
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert loaded.dtype == torch.bfloat16
    assert loaded.config.vocab_size == len(AutoTokenizer.from_pretrained(folder))
    card = (folder / "README.md").read_text()
    assert f"make train-tiny ARGS={name}" in card
    assert PROGRAMS.sample.question in card
    assert "{" not in card.replace("\\boxed{", "")
