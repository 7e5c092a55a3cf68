"""The stand-ins of `template_texts` as families, each with its tokenizer, as the router and transformers have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as HfTokenizer
from transformers import PreTrainedTokenizerFast

from router_svc.text.tokenizer import Tokenizer, TokenizerFiles
from tests.support.template_texts import (
    GEMMA,
    LAST_ONLY,
    LLAMA2,
    LLAMA3,
    LLAMA32,
    MISTRAL,
    PHI,
    QWEN3,
    QWEN3_THINKING,
    QWEN25,
    QWQ,
    R1,
)


@dataclass(frozen=True)
class Family:
    """A template, the special tokens that it names (its stop token is eos_token), and those that it writes."""

    template: str
    named: Mapping[str, str] = field(default_factory=dict)
    marks: Sequence[str] = ()  # special tokens
    words: Sequence[str] = ()  # tokens of their own that are not special
    sentencepiece: bool = False
    takes_line_end: bool = False  # the stop token swallows white space behind it
    templates: Mapping[str, str] = field(default_factory=dict)  # of other names

    def _raw(self) -> HfTokenizer:
        return _sentencepiece() if self.sentencepiece else _byte_level()

    def tokens(self) -> HfTokenizer:
        raw = self._raw()
        special = dict.fromkeys([*self.named.values(), *self.marks])
        stop = self.named["eos_token"]
        added = [
            AddedToken(text, special=True, normalized=False, rstrip=self.takes_line_end and text == stop)
            for text in special
        ]
        raw.add_special_tokens(added)
        raw.add_tokens([AddedToken(text, special=False, normalized=False) for text in self.words])
        return raw

    def ours(self) -> Tokenizer:
        data = self.tokens().to_str().encode()
        return Tokenizer(TokenizerFiles(data, self.template, self.named, named_templates=self.templates))

    def theirs(self) -> Any:
        template = {"default": self.template, **self.templates} if self.templates else self.template
        made = PreTrainedTokenizerFast(tokenizer_object=self.tokens(), **self.named)
        made.chat_template = template
        return made


def _byte_level() -> HfTokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("a", "n"), ("e", "r"), ("i", "n"), ("o", "n")]
    vocab = {token: index for index, token in enumerate([*alphabet, *("".join(pair) for pair in merges)])}
    made = HfTokenizer(models.BPE(vocab, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


def _sentencepiece() -> HfTokenizer:
    """As Llama-2's: spaces are ▁, one is put in front of each stretch of text, unknown characters are bytes."""
    letters = [chr(code) for code in range(33, 127)]
    merges = [("▁", "t"), ("▁t", "h"), ("▁", "o"), ("▁o", "k"), ("▁", "a")]
    spelled = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters, *("".join(pair) for pair in merges)]
    vocab = {token: index for index, token in enumerate(spelled)}
    made = HfTokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return made


_IM = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
_THINK = ("<think>", "</think>")
_HEADERS = ("<|start_header_id|>", "<|end_header_id|>")
_S = {"bos_token": "<s>", "eos_token": "</s>"}
_R1_NAMED = {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>"}
FAMILIES = {
    "qwen2.5": Family(QWEN25, _IM, ("<|im_start|>",), ("<tool_call>", "</tool_call>")),
    "qwen3": Family(QWEN3, _IM, ("<|im_start|>",), (*_THINK, "<tool_call>", "</tool_call>")),
    "qwen3-thinking": Family(QWEN3_THINKING, _IM, ("<|im_start|>",), _THINK),
    "qwq": Family(QWQ, _IM, ("<|im_start|>",), _THINK),
    "r1": Family(R1, _R1_NAMED, ("<｜User｜>", "<｜Assistant｜>"), _THINK),
    "llama2": Family(LLAMA2, _S | {"unk_token": "<unk>"}, sentencepiece=True),
    "llama3": Family(LLAMA3, {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}, _HEADERS),
    "llama3.2": Family(LLAMA32, {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}, _HEADERS),
    "mistral": Family(MISTRAL, _S, ("[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]")),
    "gemma": Family(GEMMA, {"bos_token": "<bos>", "eos_token": "<end_of_turn>"}, ("<start_of_turn>",)),
    "phi": Family(PHI, {"eos_token": "<|end|>"}, ("<|user|>", "<|assistant|>", "<|system|>"), takes_line_end=True),
    "last only": Family(
        LAST_ONLY,
        _S | {"sep_token": "<sep>", "mask_token": "<mask>"},
        templates={"tool_use": "tools: {{ tools | length }}{{ eos_token }}", "rag": "{{ documents[0].text }}"},
    ),
}
