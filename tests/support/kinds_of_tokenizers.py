"""Small tokenizers of the kinds that models have, with the special tokens of `SPECIAL` and a few words and merges."""

from __future__ import annotations

import string
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as HfTokenizer

from router_svc.text.tokenizer import Tokenizer, TokenizerFiles

SPECIAL = ("<unk>", "<s>", "</s>", "<|im_end|>", "<|pad|>")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
_LETTERS = (*string.ascii_letters, *string.digits, *".,!?<>|/_()'=+*:-\n", "é")


def byte_level(**changes: Any) -> HfTokenizer:
    """As GPT-2 and Qwen: each byte is a character of the vocabulary. A prefix space and a normalizer on request."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "t"), ("t", "h"), ("Ġ", "ð"), ("Ġð", "Ł"), ("m", "o"), ("mo", "re"), ("r", "e")]
    words = list(dict.fromkeys(a + b for a, b in merges))
    raw: Any = HfTokenizer(models.BPE({token: index for index, token in enumerate([*alphabet, *words])}, merges))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=changes.get("prefix_space", False))
    raw.decoder = decoders.ByteLevel()
    raw.normalizer = changes.get("normalizer")
    return _with_special(raw)


def llama_2() -> HfTokenizer:
    """As Llama-2's and Mistral's: a normalizer puts a space before each piece of text; bytes for what has no token."""
    raw = _sentencepiece()
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _with_special(raw)


def metaspace(prepend_scheme: str, strips: bool = False) -> HfTokenizer:
    """The pre-tokenizer puts a space first ("first"), before each piece of text ("always") or nowhere ("never")."""
    raw = _sentencepiece()
    raw.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme, split=False)
    raw.normalizer = normalizers.Strip() if strips else None
    if prepend_scheme == "never":
        raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    else:
        raw.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace("▁", prepend_scheme)])
    return _with_special(raw)


def unigram() -> HfTokenizer:
    """As T5's and XLM-R's: the most likely pieces, double spaces become one, and what has no piece is unknown."""
    pieces = [("<unk>", 0.0), ("▁", -2.0), ("▁more", -4.0), *((letter, -6.0) for letter in _LETTERS)]
    raw: Any = HfTokenizer(models.Unigram(pieces, 0))
    raw.normalizer = normalizers.Sequence([normalizers.Strip(False, True), normalizers.Replace(Regex(" {2,}"), "▁")])
    raw.pre_tokenizer = pre_tokenizers.Metaspace("▁", "always")
    raw.decoder = decoders.Metaspace("▁", "always")
    return _with_special(raw)


def wordpiece() -> HfTokenizer:
    """As BERT's: lower-case words of pieces, the later ones marked; spaces between words are not kept."""
    pieces = ["<unk>", *_LETTERS, *(f"##{letter}" for letter in _LETTERS), "more"]
    raw: Any = HfTokenizer(models.WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token="<unk>"))
    raw.normalizer = normalizers.BertNormalizer()
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    return _with_special(raw)


def served(raw: HfTokenizer) -> Tokenizer:
    """The tokenizer as the router has it from a worker."""
    return Tokenizer(TokenizerFiles(raw.to_str().encode()))


def _sentencepiece() -> Any:
    merges = [("▁", "m"), ("m", "o"), ("r", "e"), ("mo", "re"), ("▁", "more"), ("▁", "t"), ("▁", "▁")]
    tokens = dict.fromkeys([*SPECIAL[:3], *BYTES, "▁", *_LETTERS, *(a + b for a, b in merges)])
    vocab = {token: index for index, token in enumerate(tokens)}
    return HfTokenizer(models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))


def _with_special(raw: Any) -> HfTokenizer:
    raw.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    raw.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    made: HfTokenizer = raw
    return made
