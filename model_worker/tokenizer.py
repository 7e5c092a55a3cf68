"""The model's tokenizer as other programs need it: its file, its chat template, its fingerprint, how it thinks.

The worker itself never tokenizes; it hands these to the router.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils.hub import cached_file

from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.loader import check_source

EXIT_STYLE_FILE = "early_exit.json"
_DEFAULT_TEMPLATE = "default"


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
    named_templates: dict[str, str]  # those of other names, such as tool_use
    special_tokens: dict[str, str]  # what transformers passes to a chat template, bos_token and others
    eos_token_id: int | None  # what the tokenizer calls the end; None if it names none that it has
    vocab_size: int  # ids are below it, those of added tokens included
    fingerprint: str  # SHA-256 of each id with its token, hex
    early_exit: ExitStyle  # the content of the folder's early_exit.json


def load_tokenizer(model: str) -> TokenizerFiles:
    """Reads the tokenizer of a folder or hub id. Raises UnsupportedModel if it has none that `tokenizers` can load, or
    one without a vocabulary.
    """
    source = check_source(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        file = cached_file(source, "tokenizer.json", _raise_exceptions_for_missing_entries=False)
        named = PreTrainedTokenizerFast.from_pretrained(source) if file else None
    except (OSError, ValueError, KeyError) as error:
        raise UnsupportedModel(f"{model}: no tokenizer that transformers can load: {error}") from error
    # The file itself where there is one: the class that transformers picks by model type may add tokens of its own,
    # and two models that share a file would seem to differ.
    backend = Tokenizer.from_file(file) if file else getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise UnsupportedModel(f"{model}: its tokenizer has no `tokenizers` backend (tokenizer.json)")
    if named is not None:
        _add_named(model, backend, tokenizer, named)
    vocabulary = backend.get_vocab(with_added_tokens=True)
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    if vocabulary.keys() <= added:  # transformers is content with that, and reads nothing in any text
        raise UnsupportedModel(
            f"{model}: its tokenizer has no vocabulary; put tokenizer.json, or the files that "
            f"{type(tokenizer).__name__} reads, beside tokenizer_config.json"
        )
    templates = tokenizer.chat_template or {}
    if isinstance(templates, str):
        templates = {_DEFAULT_TEMPLATE: templates}
    return TokenizerFiles(
        data=backend.to_str().encode(),
        chat_template=templates.get(_DEFAULT_TEMPLATE, ""),
        named_templates={name: text for name, text in templates.items() if name != _DEFAULT_TEMPLATE},
        special_tokens=dict(tokenizer.special_tokens_map),
        eos_token_id=vocabulary.get(str(tokenizer.eos_token)),
        vocab_size=max(vocabulary.values()) + 1,
        fingerprint=fingerprint(vocabulary),
        early_exit=_exit_style(model, source),
    )


def _add_named(model: str, backend: Tokenizer, tokenizer: Any, named: Any) -> None:
    """Adds the tokens that only tokenizer_config.json names, or a file beside it, with the ids that transformers gives.

    `tokenizer` is of the class that transformers picks for the model, `named` of the one that has no tokens of its own.
    """
    known = set(map(repr, backend.get_added_tokens_decoder().values()))
    names = {token.content: token for token in named.added_tokens_decoder.values() if repr(token) not in known}
    ids = {token.content: id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.content in names}
    last = max(ids.values(), default=-1)
    for id_, token in sorted(tokenizer.added_tokens_decoder.items()):
        if token.content in names:
            backend.add_tokens([names[token.content]])
        elif id_ < last and backend.token_to_id(token.content) is None:
            # One of the class's own; the ids of those after it count it.
            backend.add_tokens([token])
    for content, id_ in ids.items():
        if (own := backend.token_to_id(content)) != id_:
            raise UnsupportedModel(
                f"{model}: the token {content!r} of its tokenizer_config.json has id {id_} in transformers, and {own} "
                "beside tokenizer.json; save the tokenizer anew with both files of one transformers"
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
