"""The tokenizer as the worker hands it on."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_worker.engine.errors import UnsupportedModel
from model_worker.tokenizer import EXIT_STYLE_FILE, ExitStyle, load_tokenizer
from tests.support.pairs import VOCAB_SIZE, save_model


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
