"""The model's tokenizer as other programs need it: its file, its chat template, its fingerprint, how it thinks.

The worker itself never tokenizes; it hands these to the router.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer
from transformers.utils.hub import cached_file

from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.loader import check_source

EXIT_STYLE_FILE = "early_exit.json"
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True, slots=True)
class ExitStyle:
    """How early exit asks a model for its answer; fields as in the contract."""

    boundaries: tuple[str, ...] = ()
    prompt: str = ""
    end: str = ""
    thinking_end: str = ""


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What the router needs to write prompts for the model and to read its answers."""

    data: bytes  # a `tokenizers` file (tokenizer.json)
    chat_template: str  # Jinja; "" if there is none
    special_tokens: dict[str, str]  # those of `_SPECIAL` that exist
    vocab_size: int  # ids are below it, those of added tokens included
    fingerprint: str  # SHA-256 of each id with its token, hex
    early_exit: ExitStyle  # the content of the folder's early_exit.json


def load_tokenizer(model: str) -> TokenizerFiles:
    """Reads the tokenizer of a folder or hub id. Raises UnsupportedModel if it has none that `tokenizers` can load."""
    source = check_source(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        file = cached_file(source, "tokenizer.json", _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError, KeyError) as error:
        raise UnsupportedModel(f"{model}: no tokenizer that transformers can load: {error}") from error
    # The file itself where there is one: the class that transformers picks by model type may add tokens of its own,
    # and two models that share a file would seem to differ.
    backend = Tokenizer.from_file(file) if file else getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise UnsupportedModel(f"{model}: its tokenizer has no `tokenizers` backend (tokenizer.json)")
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    vocabulary = backend.get_vocab(with_added_tokens=True)
    return TokenizerFiles(
        data=backend.to_str().encode(),
        chat_template=template or "",
        special_tokens={name: str(value) for name in _SPECIAL if (value := getattr(tokenizer, name, None))},
        vocab_size=max(vocabulary.values()) + 1,
        fingerprint=fingerprint(vocabulary),
        early_exit=_exit_style(model, source),
    )


def fingerprint(vocabulary: dict[str, int]) -> str:
    """Returns the SHA-256, hex, of a line "id token" for each entry in order of id."""
    digest = hashlib.sha256()
    for token, token_id in sorted(vocabulary.items(), key=lambda item: item[1]):
        digest.update(f"{token_id} {token}\n".encode())
    return digest.hexdigest()


def _exit_style(model: str, source: str) -> ExitStyle:
    """Reads early_exit.json, which few models have. Raises UnsupportedModel if it cannot be read."""
    file = cached_file(
        source,
        EXIT_STYLE_FILE,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if file is None:
        return ExitStyle()
    try:
        given = json.loads(Path(file).read_text())
        boundaries = given.pop("boundaries", [])
        if not isinstance(boundaries, list) or not all(
            isinstance(text, str) for text in (*boundaries, *given.values())
        ):
            raise TypeError("boundaries is a list of strings, all else a string")
        return ExitStyle(tuple(boundaries), **given)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UnsupportedModel(f"{model}: {EXIT_STYLE_FILE} cannot be read: {error}") from error
