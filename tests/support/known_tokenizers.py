"""Small tokenizers that stand in for those of known models.

Published facts, kept: how special tokens are spelled, in which order their ids follow one another and on which side of
the text they lie, which of them are `special`, which token begins and ends, which ones `generation_config.json` lets
end an answer, whether encoding puts BOS first, and the kind of the tokenizer (byte-level BPE, Qwen's behind NFC; BPE of
characters with byte fallback). `id_of` takes a published id.

Stand-ins: the text entries (some three hundred instead of 32,000 to 256,000; models of one family have the same ones,
other families have others), how text is cut into words, and the templates' wording (`known_templates`).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from router_svc.text.tokenizer import TokenizerFiles
from tests.support import known_templates as templates

# Words whose tokens a family has, by joining from the left; each family has its own.
_WORDS = {
    "qwen": " the and ing is we so think > < </ step answer 12 er re on \n\n 的 你好",
    "llama": "in the ing to think of 100 an re we </ > is or \n\n 的 он",
    "mistral": " t he the an re and ing think in er de le \n",
    "gemma": " the of and a in to think is on er ing 你 の \n\n",
}


@dataclass(frozen=True, eq=False)
class Known:
    """A known model's tokenizer.

    Attributes:
        num_text: text entries of the original.
        first_text: published id of the first of them: special tokens with lower ids come before the text.
        added: published ids of special and added tokens, each with its text; of those in `plain` `special` is false.
        ends: texts of the tokens with which generation_config.json ends an answer.
        begins: whether encoding a text puts BOS first.
    """

    hub_id: str
    family: str
    num_text: int
    first_text: int
    added: Mapping[int, str]
    plain: frozenset[str]
    bos: str
    eos: str
    ends: tuple[str, ...]
    begins: bool
    chat_template: str

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        return _made(self)

    def files(self) -> TokenizerFiles:
        """What a worker would send the router."""
        named = {"bos_token": self.bos, "eos_token": self.eos}
        return TokenizerFiles(self.tokenizer.to_str().encode(), self.chat_template, named)

    def save(self, folder: Path) -> Path:
        """Writes the files of a tokenizer as transformers has them."""
        fast = PreTrainedTokenizerFast(tokenizer_object=self.tokenizer, bos_token=self.bos, eos_token=self.eos)
        fast.chat_template = self.chat_template or None
        fast.save_pretrained(folder)
        return folder

    def id_of(self, published: int) -> int:
        """The stand-in's id of a special token, by its published one."""
        return self.token(self.added[published])

    def token(self, spelled: str) -> int:
        token: int | None = self.tokenizer.token_to_id(spelled)
        assert token is not None, f"{self.hub_id} has no {spelled}"
        return token

    @property
    def size(self) -> int:
        size: int = self.tokenizer.get_vocab_size()
        return size

    @property
    def stop_tokens(self) -> frozenset[int]:
        return frozenset(map(self.token, self.ends))


def _made(known: Known) -> Tokenizer:
    is_byte_level = known.family in ("qwen", "llama")
    alphabet = _bytes() if is_byte_level else [f"<0x{byte:02X}>" for byte in range(256)]
    pieces, merges = _joined(known.family, is_byte_level)
    before = [text for token, text in sorted(known.added.items()) if token < known.first_text]
    entries = dict.fromkeys([*before, *alphabet, *pieces])
    made = Tokenizer(
        models.BPE(
            {entry: token for token, entry in enumerate(entries)},
            merges,
            byte_fallback=not is_byte_level,
            fuse_unk=not is_byte_level,
            unk_token=None if is_byte_level else "<unk>",
        )
    )
    _cut(made, known.family)
    made.add_tokens([_added(known, text) for _, text in sorted(known.added.items())])
    if known.begins:
        bos = made.token_to_id(known.bos)
        made.post_processor = processors.TemplateProcessing(f"{known.bos} $A", special_tokens=[(known.bos, bos)])
    return made


def _added(known: Known, text: str) -> AddedToken:
    return AddedToken(text, special=text not in known.plain, normalized=False)


def _cut(made: Tokenizer, family: str) -> None:
    """How text becomes pieces, and pieces text."""
    if family in ("qwen", "llama"):
        digits = r"\p{N}" if family == "qwen" else r"\p{N}{1,3}"
        words = Regex(rf"[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s+")
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        made.decoder = decoders.ByteLevel()
        if family == "qwen":
            made.normalizer = normalizers.NFC()
        return
    back: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if family == "mistral":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        back.append(decoders.Strip(" ", 1, 0))
    else:
        made.normalizer = normalizers.Replace(" ", "▁")
        made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.decoder = decoders.Sequence(back)


def _joined(family: str, is_byte_level: bool) -> tuple[list[str], list[tuple[str, str]]]:
    """Pieces of the family's words, single characters first, and the merges that make the longer ones."""
    bytes_of = _bytes() if is_byte_level else []
    words = [
        "".join(bytes_of[byte] for byte in word.encode()) if is_byte_level else word.replace(" ", "▁")
        for word in _split(_WORDS[family])
    ]
    merges = dict.fromkeys((word[:end], word[end]) for word in words for end in range(1, len(word)))
    letters = [] if is_byte_level else ["▁", *map(chr, range(33, 127)), *"".join(words)]
    return [*letters, *("".join(pair) for pair in merges)], list(merges)


def _split(words: str) -> Iterator[str]:
    """The words, each with and without the space before it, as tokenizers of text have them."""
    for word in words.split(" "):
        yield word
        if word.isalpha():
            yield f" {word}"


@functools.cache
def _bytes() -> list[str]:
    """The character by which a byte-level vocabulary spells each byte."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = itertools.count(256)
    return [chr(byte) if byte in seen else chr(next(others)) for byte in range(256)]


def _from(first: int, texts: str) -> dict[int, str]:
    return dict(enumerate(texts.split(" "), first))


_VISION = (
    "<|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|> "
    "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|>"
)
_QWEN25 = _from(
    151643,
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> "
    + _VISION,
)
_QWEN3 = _QWEN25 | _from(151665, "<tool_response> </tool_response> <think> </think>")
_R1_QWEN = _from(
    151643,
    "<｜end▁of▁sentence｜> <｜User｜> <｜Assistant｜> <｜begin▁of▁sentence｜> <|EOT|> <think> </think> " + _VISION,
)
_QWEN_PLAIN = frozenset(_VISION.split(" ")[7:]) | {"<tool_response>", "</tool_response>", "<think>", "</think>"}
_R1_PLAIN = _QWEN_PLAIN | {"<｜User｜>", "<｜Assistant｜>", "<|EOT|>"}

_LLAMA3 = _from(
    128000,
    "<|begin_of_text|> <|end_of_text|> <|reserved_special_token_0|> <|reserved_special_token_1|> "
    "<|finetune_right_pad_id|> <|reserved_special_token_2|> <|start_header_id|> <|end_header_id|> <|eom_id|> "
    "<|eot_id|> <|python_tag|> " + " ".join(f"<|reserved_special_token_{number}|>" for number in range(3, 248)),
)
_R1_LLAMA = (
    _LLAMA3
    | _from(128000, "<｜begin▁of▁sentence｜> <｜end▁of▁sentence｜>")
    | _from(128011, "<｜User｜> <｜Assistant｜> <think> </think> <｜▁pad▁｜>")
)

_MISTRAL_V1 = _from(0, "<unk> <s> </s>")
_MISTRAL_V3 = _MISTRAL_V1 | _from(
    3,
    "[INST] [/INST] [TOOL_CALLS] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_RESULTS] [/TOOL_RESULTS] "
    + " ".join(f"[control_{number}]" for number in range(8, 769)),
)
_GEMMA2 = _from(
    0,
    "<pad> <eos> <bos> <unk> <mask> <2mass> [@BOS@] "
    + " ".join(f"<unused{number}>" for number in range(99))
    + " <start_of_turn> <end_of_turn>",
)


def _r1_qwen(hub_id: str, chat_template: str = templates.R1_DISTILL) -> Known:
    end, begin = "<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>"
    return Known(hub_id, "qwen", 151643, 0, _R1_QWEN, _R1_PLAIN, begin, end, (end,), True, chat_template)


def _qwen(hub_id: str, added: Mapping[int, str], eos: str, ends: tuple[str, ...], chat_template: str) -> Known:
    return Known(hub_id, "qwen", 151643, 0, added, _QWEN_PLAIN, "<|endoftext|>", eos, ends, False, chat_template)


def _llama3(hub_id: str, eos: str, ends: tuple[str, ...], chat_template: str) -> Known:
    bos = "<|begin_of_text|>"
    return Known(hub_id, "llama", 128000, 0, _LLAMA3, frozenset(), bos, eos, ends, True, chat_template)


def _sentence_piece(
    hub_id: str, family: str, num_text: int, added: Mapping[int, str], ends: tuple[str, ...], chat_template: str
) -> Known:
    bos, eos = ("<bos>", "<eos>") if family == "gemma" else ("<s>", "</s>")
    return Known(hub_id, family, num_text, max(added) + 1, added, frozenset(), bos, eos, ends, True, chat_template)


_CHATML_ENDS = ("<|im_end|>", "<|endoftext|>")

R1_DISTILL_QWEN_7B = _r1_qwen("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B")
L1_SHORT = _r1_qwen("l3lab/L1-1.5B-Short", templates.R1_DISTILL_EARLY)
QWQ_32B = _qwen("Qwen/QwQ-32B", _QWEN3, "<|im_end|>", _CHATML_ENDS, templates.QWQ)
QWEN25_MATH_OAT_ZERO = _qwen(
    "sail/Qwen2.5-Math-1.5B-Oat-Zero", _QWEN25, "<|endoftext|>", ("<|endoftext|>",), templates.QWEN25_MATH
)
QWEN25_CODER = _qwen("Qwen/Qwen2.5-Coder-1.5B-Instruct", _QWEN25, "<|im_end|>", _CHATML_ENDS, templates.QWEN25)
QWEN3_SMALL = _qwen("Qwen/Qwen3-0.6B", _QWEN3, "<|im_end|>", _CHATML_ENDS, templates.QWEN3)
QWEN3_32B = _qwen("Qwen/Qwen3-32B", _QWEN3, "<|im_end|>", _CHATML_ENDS, templates.QWEN3)
LLAMA32_BASE = _llama3("meta-llama/Llama-3.2-1B", "<|end_of_text|>", ("<|end_of_text|>",), "")
LLAMA32_INSTRUCT = _llama3(
    "meta-llama/Llama-3.2-1B-Instruct",
    "<|eot_id|>",
    ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
    templates.LLAMA32,
)
R1_DISTILL_LLAMA_70B = Known(
    "deepseek-ai/DeepSeek-R1-Distill-Llama-70B",
    "llama",
    128000,
    0,
    _R1_LLAMA,
    _R1_PLAIN,
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    ("<｜end▁of▁sentence｜>",),
    True,
    templates.R1_DISTILL,
)
MISTRAL_V1 = _sentence_piece(
    "mistralai/Mistral-7B-Instruct-v0.1", "mistral", 31997, _MISTRAL_V1, ("</s>",), templates.MISTRAL
)
MISTRAL_V3 = _sentence_piece(
    "mistralai/Mistral-7B-Instruct-v0.3", "mistral", 31997, _MISTRAL_V3, ("</s>",), templates.MISTRAL
)
GEMMA2 = _sentence_piece("google/gemma-2-2b-it", "gemma", 255892, _GEMMA2, ("<eos>", "<end_of_turn>"), templates.GEMMA)

ALL = (
    R1_DISTILL_QWEN_7B,
    L1_SHORT,
    QWQ_32B,
    QWEN25_MATH_OAT_ZERO,
    QWEN25_CODER,
    QWEN3_SMALL,
    QWEN3_32B,
    LLAMA32_BASE,
    LLAMA32_INSTRUCT,
    R1_DISTILL_LLAMA_70B,
    MISTRAL_V1,
    MISTRAL_V3,
    GEMMA2,
)
