"""The tokenizer as the worker hands it on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from model_worker.engine.errors import UnsupportedModel
from model_worker.tokenizer import EXIT_STYLE_FILE, ExitStyle, load_tokenizer
from tests.support.pairs import CONFIGS, VOCAB_SIZE, save_model

TEXT = "hi <think> then<|im_end|><|image|> they <a><b>"


def save_with(folder: Path, architecture: str = "llama", **config: Any) -> Path:
    """A model folder whose tokenizer_config.json says more than its tokenizer.json."""
    save_model(folder, architecture, 0)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return folder


def added(content: str, *, special: bool = True) -> dict[str, Any]:
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    return {"content": content, "special": special, **flags}


def test_two_architectures_that_share_a_file_have_one_fingerprint(tmp_path: Path) -> None:
    """transformers adds tokens of its own to the tokenizer of some model types."""
    slm, llm = (
        load_tokenizer(str(save_model(tmp_path / name, name, seed))) for seed, name in enumerate(("llama", "qwen2"))
    )
    assert slm.fingerprint == llm.fingerprint
    assert slm.vocab_size == llm.vocab_size == VOCAB_SIZE


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "llama", "llama", 0)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UnsupportedModel, match="tokenizer"):
        load_tokenizer(str(folder))


def test_a_folder_says_how_early_exit_asks_its_model(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "llama", "llama", 0)
    assert load_tokenizer(str(folder)).early_exit == ExitStyle()
    (folder / EXIT_STYLE_FILE).write_text('{"boundaries": [".\\n"], "prompt": "</think>"}')
    assert load_tokenizer(str(folder)).early_exit == ExitStyle((".\n",), "</think>")


@pytest.mark.parametrize("text", ["{", "[]", '{"boundaries": "."}', '{"prompt": 1}', '{"prompts": "x"}'])
def test_an_early_exit_file_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    folder = save_model(tmp_path / "llama", "llama", 0)
    (folder / EXIT_STYLE_FILE).write_text(text)
    with pytest.raises(UnsupportedModel, match=EXIT_STYLE_FILE):
        load_tokenizer(str(folder))


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt_neox", "gemma"])
@pytest.mark.parametrize(
    "config",
    [
        {"added_tokens_decoder": {"300": added("<|im_end|>"), "301": added("<think>", special=False)}},
        {"eos_token": "<|im_end|>"},
        {"eos_token": added("<|im_end|>") | {"__type": "AddedToken"}},
        {"additional_special_tokens": ["<a>", "<b>"]},
        {"extra_special_tokens": ["<a>", "<b>"]},
        {"extra_special_tokens": {"image_token": "<|image|>"}},
        {"image_token": "<|image|>", "eos_token": "<|im_end|>", "additional_special_tokens": ["<b>"]},
    ],
    ids=["decoder", "eos", "eos as a token", "additional", "extra", "extra by name", "several"],
)
def test_tokens_that_only_the_config_names_are_those_of_transformers(
    tmp_path: Path, architecture: str, config: dict[str, Any]
) -> None:
    plain = load_tokenizer(str(save_model(tmp_path / "plain", architecture, 0)))
    files = load_tokenizer(str(save_with(tmp_path / "more", architecture, **config)))
    auto = AutoTokenizer.from_pretrained(tmp_path / "more")
    ours = Tokenizer.from_str(files.data.decode())
    names = {"<|im_end|>", "<think>", "<|image|>", "<a>", "<b>"} & set(auto.get_vocab())
    assert names
    assert {name: ours.token_to_id(name) for name in names} == {name: auto.get_vocab()[name] for name in names}
    assert ours.encode(TEXT, add_special_tokens=False).ids == auto.encode(TEXT, add_special_tokens=False)
    special = {token.content: token.special for token in auto.added_tokens_decoder.values()}
    for token in ours.get_added_tokens_decoder().values():
        assert token.special is special.get(token.content, True)  # <|user|> and others are the file's alone
    assert files.vocab_size == max(ours.get_vocab().values()) + 1
    assert files.fingerprint != plain.fingerprint


def test_a_config_that_names_nothing_new_changes_no_byte(tmp_path: Path) -> None:
    """The class that transformers picks may have more tokens; the files do not name them."""
    folder = save_with(tmp_path / "qwen2", "qwen2", eos_token="<|user|>", pad_token="<|pad|>")
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert Tokenizer.from_str(load_tokenizer(str(folder)).data.decode()).to_str() == own.to_str()


@pytest.mark.parametrize("architecture", CONFIGS)
def test_a_config_without_a_vocabulary_is_refused(tmp_path: Path, architecture: str) -> None:
    folder = save_with(tmp_path / "model", architecture, added_tokens_decoder={"0": added("<|im_end|>")})
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UnsupportedModel, match=str(folder)) as refused:
        load_tokenizer(str(folder))
    assert "vocabulary" in str(refused.value) or "no tokenizer" in str(refused.value)


def test_a_file_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", "llama", 0)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"] |= {"vocab": {}, "merges": []}
    file.write_text(json.dumps(content))
    with pytest.raises(UnsupportedModel, match="no vocabulary"):
        load_tokenizer(str(folder))


def test_a_template_gets_the_special_tokens_that_transformers_gives_it(tmp_path: Path) -> None:
    named = {"sep_token": "<|user|>", "cls_token": "<|system|>", "mask_token": "<|pad|>", "bos_token": "<|assistant|>"}
    folder = save_with(tmp_path / "model", **named, image_token="<|image|>", additional_special_tokens=["<a>"])
    files = load_tokenizer(str(folder))
    auto = AutoTokenizer.from_pretrained(folder)
    assert files.special_tokens == auto.special_tokens_map
    assert named.items() <= files.special_tokens.items()
    assert files.special_tokens["image_token"] == "<|image|>"
    everything = "".join(f"{{{{ {name} }}}}|" for name in [*files.special_tokens, "additional_special_tokens"])
    rendered = auto.apply_chat_template([{"role": "user", "content": "x"}], chat_template=everything, tokenize=False)
    assert rendered == "".join(f"{value}|" for value in files.special_tokens.values()) + "|"


def test_chat_templates_of_other_names_are_told(tmp_path: Path) -> None:
    listed = [{"name": name, "template": f"{name}!"} for name in ("default", "tool_use", "rag")]
    folder = save_with(tmp_path / "listed", chat_template=listed)
    (folder / "chat_template.jinja").unlink()
    files = load_tokenizer(str(folder))
    assert (files.chat_template, files.named_templates) == ("default!", {"tool_use": "tool_use!", "rag": "rag!"})
    in_files = save_model(tmp_path / "files", "llama", 0)
    (in_files / "additional_chat_templates").mkdir()
    (in_files / "additional_chat_templates" / "tool_use.jinja").write_text("tools!")
    own = load_tokenizer(str(in_files))
    assert own.named_templates == {"tool_use": "tools!"}
    assert own.chat_template == (in_files / "chat_template.jinja").read_text()
    (in_files / "chat_template.jinja").unlink()
    only = load_tokenizer(str(in_files))
    assert (only.chat_template, only.named_templates) == ("", {"tool_use": "tools!"})


def test_what_the_tokenizer_calls_the_end(tmp_path: Path) -> None:
    assert load_tokenizer(str(save_model(tmp_path / "plain", "llama", 0))).eos_token_id == 0
    assert load_tokenizer(str(save_with(tmp_path / "other", eos_token="<|user|>"))).eos_token_id == 2
    assert load_tokenizer(str(save_with(tmp_path / "added", "qwen2", eos_token="<|im_end|>"))).eos_token_id == 300
