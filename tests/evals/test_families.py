"""Which families are served: the check tells exact from refused from wrong, and the page says what it finds."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from typer.testing import CliRunner

from evals.families import page
from evals.families.__main__ import app
from evals.families.check import Outcome, Verdict, check, check_in
from evals.families.children import check_each
from evals.families.sizes import CONTEXT_LENGTH, NUM_TOKENS
from evals.families.tiny import tiny_config, tiny_model
from model_worker.engine.engine import Engine
from model_worker.engine.forward.loader import adopt
from model_worker.engine.forward.reach import Reach
from model_worker.engine.types import Limits

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("family", "sees"), [("opt", ""), ("afmoe", "a window"), ("mamba", "states")])
def test_a_family_is_exact(family: str, sees: str) -> None:
    outcome = check(family)
    assert (outcome.verdict, outcome.why, outcome.sees) == (Verdict.EXACT, "", sees)
    assert outcome.num_distinct > 20  # tokens vary


def test_in_float32_a_family_is_exact_up_to_ties_alone() -> None:
    outcome = check_in("llama", torch.float32)
    assert (outcome.verdict, outcome.why, outcome.dtype) == (Verdict.EXACT, "", "float32")


# Each was refused once: a forward that makes all logits, a text model inside another, `logits_to_keep` among what
# attention gets, masks that the model would make longer than the tokens, a window that is off.
@pytest.mark.parametrize("family", ["ctrl", "gemma3", "got_ocr2", "bart", "biogpt", "qwen2_moe", "internlm3"])
def test_a_familys_logits_are_its_own(family: str) -> None:
    model = tiny_model(tiny_config(family, CONFIG_MAPPING[family]), torch.float32)
    Engine(adopt(model, CONTEXT_LENGTH), Limits(NUM_TOKENS, CONTEXT_LENGTH, num_pages=16))


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("deepseek_v32", "keep more than keys, values and states"),
        ("bloom", "AttentionInterface"),
        ("moshi", "generate keeps its last 16 keys"),
        ("mllama", "layers [3] have neither attention"),
    ],
)
def test_a_family_is_refused_in_the_engines_words(family: str, words: str) -> None:
    outcome = check(family)
    assert outcome.verdict is Verdict.REFUSED
    assert words in outcome.why
    assert outcome.model not in outcome.why


def test_a_window_that_is_a_key_too_long_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reach, "firsts", lambda self, positions: (positions - self.window).clip(0))
    monkeypatch.setattr("model_worker.engine.engine.check_parity", lambda *args: None)
    assert check("mistral").verdict is Verdict.WRONG


@pytest.mark.soak
def test_what_takes_too_long_is_told_and_the_others_go_on() -> None:
    (outcome,) = check_each(["llama"], 1, 0.01)
    assert (outcome.family, outcome.verdict) == ("llama", Verdict.NOT_BUILT)
    assert "not done within" in outcome.why


def test_the_command_tells_outcomes_and_refuses_what_is_no_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evals.families.__main__.check_each", lambda families, jobs, limit_s: map(check, families))
    done = CliRunner().invoke(app, ["--only", "bloom", "--json"])
    assert done.exit_code == 0
    assert '"verdict": "refused"' in done.stdout
    refused = CliRunner().invoke(app, ["--only", "no-such-family"])
    assert refused.exit_code == 2
    assert "no-such-family" in refused.stderr
    assert CliRunner().invoke(app, ["--only", "bloom", "--write"]).exit_code == 2
    monkeypatch.setattr(
        "evals.families.__main__.check_each", lambda *_: [Outcome("llama", Verdict.WRONG, "differs at token 3")]
    )
    wrong = CliRunner().invoke(app, ["--only", "llama"])
    assert wrong.exit_code == 1
    assert "differs at token 3" in wrong.stdout


def test_the_page_says_what_was_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "models.md"
    file.write_text("<!-- families:begin -->\n<!-- families:end -->\n")
    monkeypatch.setattr(page, "PAGE", file)
    outcomes = [
        Outcome("llama", Verdict.EXACT),
        Outcome("arcee", Verdict.EXACT, sees="a window"),
        Outcome("mamba", Verdict.REFUSED, "layers that | keep"),
        Outcome("bloom", Verdict.REFUSED, "no interface"),
        Outcome("zaya", Verdict.NOT_BUILT, "TypeError"),
    ]
    page.write(outcomes)
    text = file.read_text()
    assert page.recorded_exact() == 2
    assert re.search(r"^\| `llama` .*yes", text, re.MULTILINE)
    assert re.search(r"^\| `mamba` .*refused: layers that / keep", text, re.MULTILINE)
    for family in ("arcee", "zaya"):
        assert f"`{family}`" in text
    assert "Served wrong" not in text
    page.write([dataclasses.replace(outcomes[0], verdict=Verdict.WRONG, why="differs")])
    assert "Served wrong" in file.read_text()


def test_the_documents_name_every_family_and_one_number_of_exact_ones() -> None:
    text = page.PAGE.read_text()
    named = set(re.findall(r"`([\w-]+)`", text))
    assert set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) <= named
    assert set(page.WELL_KNOWN) <= set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert "Served wrong" not in text
    readme = (ROOT / "README.md").read_text()
    assert f"{page.recorded_exact()} of {len(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)} decoder families" in readme


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_no_family_is_wrong_and_no_fewer_are_exact() -> None:
    outcomes = list(check_each(list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES), 2, 300.0))
    assert [outcome for outcome in outcomes if outcome.verdict is Verdict.WRONG] == []
    assert page.counts(outcomes)[Verdict.EXACT] >= page.recorded_exact()
