"""The model's tokenizer as other programs need it: its file, its chat template, its fingerprint.

The worker itself never tokenizes; it hands these to the router.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from tokenizers import Tokenizer
from transformers import AutoTokenizer
from transformers.utils.hub import cached_file

from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.loader import check_source

_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """A tokenizer to be sent.

    Attributes:
        data: a `tokenizers` file (tokenizer.json).
        chat_template: Jinja; "" if there is none.
        special_tokens: bos_token, eos_token, pad_token, unk_token where they exist.
        vocab_size: entries, added tokens included; ids are below it.
        fingerprint: SHA-256 of each id with its token, hex.
    """

    data: bytes
    chat_template: str
    special_tokens: dict[str, str]
    vocab_size: int
    fingerprint: str


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
        template = template.get("default", "")
    vocabulary = backend.get_vocab(with_added_tokens=True)
    return TokenizerFiles(
        data=backend.to_str().encode(),
        chat_template=template or "",
        special_tokens={name: str(value) for name in _SPECIAL if (value := getattr(tokenizer, name, None))},
        vocab_size=max(vocabulary.values()) + 1,
        fingerprint=fingerprint(vocabulary),
    )


def fingerprint(vocabulary: dict[str, int]) -> str:
    """SHA-256, hex, over "id token" for each entry in order of id."""
    digest = hashlib.sha256()
    for token, token_id in sorted(vocabulary.items(), key=lambda item: item[1]):
        digest.update(f"{token_id} {token}\n".encode())
    return digest.hexdigest()
