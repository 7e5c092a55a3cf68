"""Random pairs of models for the laws: several architectures, one small tokenizer, weights wide enough
that entropies differ.
"""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.gemma import GemmaConfig
from transformers.models.gemma2 import Gemma2Config
from transformers.models.gpt_neox import GPTNeoXConfig
from transformers.models.llama import LlamaConfig
from transformers.models.mistral import MistralConfig
from transformers.models.qwen2 import Qwen2Config
from transformers.models.qwen3 import Qwen3Config

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
VOCAB_SIZE = 300
SPECIAL = ["<|end|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>"]
CONTEXT_LENGTH = 512
STOP_TOKEN = 0

_SIZES: dict[str, Any] = {
    "vocab_size": 304,  # four rows that only pad the matrix
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT_LENGTH,
    "bos_token_id": None,
    "eos_token_id": STOP_TOKEN,
    "pad_token_id": 1,
    "tie_word_embeddings": False,
}
CONFIGS = {
    "llama": LlamaConfig(**_SIZES, num_key_value_heads=2),
    "qwen2": Qwen2Config(**_SIZES, num_key_value_heads=2),
    "qwen3": Qwen3Config(**_SIZES, num_key_value_heads=2, head_dim=16),
    "mistral": MistralConfig(**_SIZES, num_key_value_heads=2, sliding_window=None),
    "gemma": GemmaConfig(**_SIZES, num_key_value_heads=1, head_dim=16),
    "gemma2": Gemma2Config(**_SIZES, num_key_value_heads=2, head_dim=16, sliding_window=CONTEXT_LENGTH),
    "gpt_neox": GPTNeoXConfig(**_SIZES),
}


@functools.cache
def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of VOCAB_SIZE entries; any UTF-8 goes through. One for all: training breaks ties at random."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = "the quick brown fox jumps over the lazy dog, and they then saw that other one"
    tokenizer.train_from_iterator([text] * 3, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_model(config: Any, seed: int) -> Any:
    """A random model whose next-token entropies range widely: wide weights, logits of standard deviation 4."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=torch.float64).eval()
    with torch.inference_mode(False), torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
        logits = model(torch.arange(5, 25)[None]).logits[0]
        model.get_output_embeddings().weight.mul_(4 / logits[-1].std())
    return model


def save_model(folder: Path, architecture: str, seed: int) -> Path:
    """A model folder that plain transformers loads."""
    return save_model_of(folder, CONFIGS[architecture], seed)


def save_model_of(folder: Path, config: Any, seed: int) -> Path:
    """Saves a random model of any config, with the tokenizer that all of them have."""
    if not (folder / "config.json").exists():
        make_model(config, seed).save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
    return folder
