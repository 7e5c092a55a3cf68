"""Model folders to measure with: a known shape without weights, or a model of one's own, neither of which ever stops.

A folder without weights is served with `--random-weights`; it holds a config and a tokenizer of the shape's real
vocabulary, so that logits, sampling and text cost what they cost.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen2 import Qwen2Config

_WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True, slots=True)
class Shape:
    """Numbers of a Qwen2-like decoder.

    Attributes:
        num_logits: rows of the LM head.
        vocab_size: entries of the tokenizer; the rest of the rows only pad the matrix.
        tied: whether input and output embeddings are one matrix.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    num_logits: int
    vocab_size: int
    tied: bool

    def config(self) -> Qwen2Config:
        """Makes the config of `transformers`, without stop tokens."""
        return Qwen2Config(
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_kv_heads,
            intermediate_size=self.intermediate_size,
            vocab_size=self.num_logits,
            tie_word_embeddings=self.tied,
            max_position_embeddings=32768,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            eos_token_id=None,
            bos_token_id=None,
            architectures=["Qwen2ForCausalLM"],
        )


# Of Qwen2.5 as published in the config.json of each size; the tiny ones are for machines without a GPU.
SHAPES = {
    "tiny-8m": Shape(320, 6, 5, 5, 864, 1024, 1024, tied=True),
    "tiny-50m": Shape(640, 10, 10, 10, 1728, 1024, 1024, tied=True),
    "qwen2.5-1.5b": Shape(1536, 28, 12, 2, 8960, 151936, 151665, tied=True),
    "qwen2.5-7b": Shape(3584, 28, 28, 4, 18944, 152064, 151665, tied=False),
    "qwen2.5-14b": Shape(5120, 48, 40, 8, 13824, 152064, 151665, tied=False),
    "qwen2.5-32b": Shape(5120, 64, 40, 8, 27648, 152064, 151665, tied=False),
}


@dataclass(frozen=True, slots=True)
class Served:
    """What a worker is started with."""

    folder: Path
    has_weights: bool

    def worker_args(self) -> list[str]:
        return [] if self.has_weights else ["--random-weights", "0"]


def make_pair(slm: str, llm: str, folder: Path) -> tuple[Served, Served]:
    """Two folders below `folder` with one tokenizer, from names as of `shape_or_folder`."""
    own = [Path(name) for name in (slm, llm) if name not in SHAPES]
    with_tokenizer = [model for model in own if (model / "tokenizer.json").is_file()]
    made = []
    for role, name in (("slm", slm), ("llm", llm)):
        target = folder / role
        target.mkdir(parents=True)
        has_weights = name not in SHAPES and _copy_without_stop(Path(name), target)
        if name in SHAPES:
            SHAPES[name].config().save_pretrained(target)
        if with_tokenizer:
            _link(with_tokenizer[0], target, ("tokenizer*", "special_tokens_map.json", "chat_template*"))
        else:
            _tokenizer(min(_vocab_size(slm), _vocab_size(llm))).save_pretrained(target)
        made.append(Served(target, has_weights))
    return made[0], made[1]


def shape_or_folder(text: str) -> str:
    """Takes a known shape or a model folder as the value of a flag. Raises: BadParameter."""
    if text not in SHAPES and not (Path(text) / "config.json").is_file():
        raise typer.BadParameter(f"{text!r} is neither of {', '.join(SHAPES)} nor a folder with a config.json")
    return text


def _vocab_size(name: str) -> int:
    if name in SHAPES:
        return SHAPES[name].vocab_size
    return int(json.loads((Path(name) / "config.json").read_text())["vocab_size"])


def _copy_without_stop(model: Path, target: Path) -> bool:
    """The model's files as links, but no stop token: the trace says where an answer ends.

    Returns: whether it has weights.
    """
    for name in ("config.json", "generation_config.json"):
        if (model / name).is_file():
            config = json.loads((model / name).read_text())
            (target / name).write_text(json.dumps(config | {"eos_token_id": None}, indent=1))
    return _link(model, target, (*_WEIGHTS, "*.safetensors.index.json", "*.bin.index.json")) > 0


def _link(source: Path, target: Path, patterns: Sequence[str]) -> int:
    files = [file for pattern in patterns for file in source.glob(pattern)]
    for file in files:
        (target / file.name).symlink_to(file.resolve())
    return len(files)


def _tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE like the real one's: bytes, and made-up words for all other ids."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    vocab = {token: index for index, token in enumerate([*sorted(alphabet), *(f"w{n}" for n in range(vocab_size))])}
    tokenizer = Tokenizer(models.BPE(vocab={t: i for t, i in vocab.items() if i < vocab_size}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)
