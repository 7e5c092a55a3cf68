"""A renumbered model is the same model: the same text in other ids, the same logits in other places."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import processors
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.llama import LlamaConfig

from evals.asking.record import Part, Record
from evals.asking.run_file import RunFile
from evals.renumber import compare
from evals.renumber.__main__ import main, renumber
from tests.support.pairs import CONFIGS, make_model, make_tokenizer, save_model
from tests.support.served import ROOT

TEXT = "the quick brown fox, naïve 狐狸 🦊\n"
CHAT = [{"role": "user", "content": TEXT}]


def logits(folder: Path, tokens: list[int], dtype: torch.dtype) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0]


def check_same(plain: Path, other: Path, new: Any, dtype: torch.dtype, within: float) -> None:
    """Both models' tokenizers read a text alike, and both models say the same of it."""
    ours, theirs = (AutoTokenizer.from_pretrained(folder) for folder in (plain, other))
    tokens = ours(TEXT).input_ids
    assert theirs(TEXT).input_ids == new.id_of(tokens)
    assert theirs.decode(new.id_of(tokens), skip_special_tokens=True) == TEXT
    before, after = logits(plain, tokens, dtype), logits(other, new.id_of(tokens), dtype)
    moved = torch.arange(before.shape[-1])
    moved[list(new.ids)] = torch.tensor(list(new.ids.values()))
    assert torch.allclose(after[:, moved], before, rtol=0, atol=within)


@pytest.mark.parametrize("architecture", sorted(CONFIGS))
def test_the_logits_of_random_models_change_places(architecture: str, tmp_path: Path) -> None:
    plain = save_model(tmp_path / "plain", architecture, 3)
    new = renumber(plain, tmp_path / "all", ids="all", seed=1)
    assert all(old != token for old, token in new.ids.items())
    check_same(plain, tmp_path / "all", new, torch.float64, 1e-12)
    config = json.loads((tmp_path / "all" / "config.json").read_text())
    assert (config["eos_token_id"], config["pad_token_id"]) == (new.id_of(0), new.id_of(1))


def test_a_tied_head_and_what_is_put_before_a_text_change_with_it(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    sizes = {**CONFIGS["llama"].to_dict(), "tie_word_embeddings": True, "eos_token_id": [0, 3]}
    make_model(LlamaConfig(**sizes), 5).save_pretrained(plain)
    tokenizer = make_tokenizer()
    begin = processors.TemplateProcessing("<|system|> $A", "<|system|> $A $B", [("<|system|>", 4)])
    tokenizer.save_pretrained(plain)
    told = json.loads((plain / "tokenizer.json").read_text())
    told["post_processor"] = json.loads(begin.__getstate__())
    (plain / "tokenizer.json").write_text(json.dumps(told))
    new = renumber(plain, tmp_path / "special", ids="special", renamed="markers")
    check_same(plain, tmp_path / "special", new, torch.float64, 1e-12)
    assert sorted(new.ids) == [0, 1, 2, 3, 4]
    assert set(new.names) == {"<|user|>", "<|system|>"}, "the assistant's mark ends answers here"
    assert AutoTokenizer.from_pretrained(tmp_path / "special").convert_ids_to_tokens(new.id_of(4)) == "<｜System｜>"
    config = json.loads((tmp_path / "special" / "generation_config.json").read_text())
    assert config["eos_token_id"] == new.id_of([0, 3])


@pytest.mark.parametrize("ids", ["special", "all"])
def test_the_bundled_model_is_asked_in_its_new_words(ids: Any, tmp_path: Path) -> None:
    plain, other = ROOT / "models" / "tiny-llm", tmp_path / "other"
    new = renumber(plain, other, ids=ids, renamed="markers")
    check_same(plain, other, new, torch.float32, 1e-4)
    ours, theirs = (AutoTokenizer.from_pretrained(folder) for folder in (plain, other))
    asked = [
        tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True) for tokenizer in (ours, theirs)
    ]
    assert asked == [
        "<|begin|><|user|>" + TEXT + "<|end|><|assistant|>",
        "<|begin|><｜User｜>" + TEXT + "<|end|><｜Assistant｜>",
    ]
    tokens = [
        tokenizer(text, add_special_tokens=False).input_ids
        for tokenizer, text in zip((ours, theirs), asked, strict=True)
    ]
    assert tokens[1] == new.id_of(tokens[0])
    assert theirs.eos_token_id == new.id_of(ours.eos_token_id)


def test_the_command_takes_a_template_and_refuses_what_it_cannot_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, other = save_model(tmp_path / "plain", "llama", 1), tmp_path / "other"
    (template := tmp_path / "own.jinja").write_text("{{ messages[0].content }}")
    arguments = [str(plain), str(other), "--ids", "all", "--rename", "special", "--template", str(template)]
    assert main(arguments) == 0
    assert "300 ids changed, 5 tokens renamed" in capsys.readouterr().out
    tokenizer = AutoTokenizer.from_pretrained(other)
    assert tokenizer.eos_token == "<｜End｜>"
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == TEXT
    assert main(arguments) == 2
    assert "not empty" in capsys.readouterr().err
    told = json.loads((plain / "tokenizer.json").read_text())
    told["model"] = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0]], "byte_fallback": False}
    (plain / "tokenizer.json").write_text(json.dumps(told))
    assert main([str(plain), str(tmp_path / "third")]) == 2
    assert "Unigram" in capsys.readouterr().err
    assert main([str(tmp_path / "nothing"), str(tmp_path / "third")]) == 2


def test_two_runs_are_compared_text_by_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def write(name: str, *answers: tuple[Part, ...]) -> str:
        path = tmp_path / name
        with RunFile(path, {"task": "tiny"}, {}) as file:
            for index, parts in enumerate(answers):
                file.append(Record("threshold:tau=0.1", index, "", 0, 0, parts=parts))
        return str(path)

    whole = (Part("slm", 3, "one tw"), Part("llm", 1, "o", "entropy_above", 0.5))
    plain = write("plain", whole, whole, whole)
    assert compare.main([plain, write("same", whole, whole)]) == 0
    assert "2 answers in both; 2 have" in capsys.readouterr().out
    other = (Part("slm", 3, "one tw"), Part("slm", 1, "o"))
    assert compare.main([plain, write("other", whole, other, (Part("slm", 2, "one!"),))]) == 1
    told = capsys.readouterr().out
    assert "3 answers in both; 1 have" in told
    assert "problem 2: from character 3: ' two' beside '!'" in told
    assert compare.main([plain, str(tmp_path / "none")]) == 2
