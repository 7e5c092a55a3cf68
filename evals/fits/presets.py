"""Configs of models that pairs are made of, as published: their sizes only, so that no hub is asked.

Of models that also see, the part that reads and writes text is meant. Nothing here knows what a size is for.
"""

from __future__ import annotations

from typing import Any

Facts = dict[str, Any]


def _qwen2(hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocab: int, tied: bool = False) -> Facts:
    return {
        "model_type": "qwen2", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocab,
        "tie_word_embeddings": tied, "max_position_embeddings": 131072,
    }  # fmt: skip


def _qwen3(hidden: int, inner: int, layers: int, heads: int, tied: bool = False) -> Facts:
    return _qwen2(hidden, inner, layers, heads, 8, 151936, tied) | {
        "model_type": "qwen3", "head_dim": 128, "max_position_embeddings": 40960,
    }  # fmt: skip


def _qwen3_5(
    hidden: int, inner: int, layers: int, heads: int, kv_heads: int, value_heads: int, tied: bool = False
) -> Facts:
    return {
        "model_type": "qwen3_5_text", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": 256, "vocab_size": 248320,
        "linear_num_value_heads": value_heads, "tie_word_embeddings": tied, "max_position_embeddings": 262144,
    }  # fmt: skip


def _gemma3(
    hidden: int, inner: int, layers: int, heads: int, kv_heads: int, head_dim: int = 256, window: int = 1024
) -> Facts:
    return {
        "model_type": "gemma3_text", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim, "vocab_size": 262208,
        "sliding_window": window, "max_position_embeddings": 131072,
    }  # fmt: skip


def _gpt_oss(layers: int, experts: int) -> Facts:
    return {
        "model_type": "gpt_oss", "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": layers,
        "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 201088,
        "num_local_experts": experts, "sliding_window": 128, "max_position_embeddings": 131072,
        "quantization_config": {"quant_method": "mxfp4"},
    }  # fmt: skip


def _llama(hidden: int, inner: int, layers: int, heads: int, head_dim: int, tied: bool = False) -> Facts:
    return {
        "model_type": "llama", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": 8, "head_dim": head_dim, "vocab_size": 128256,
        "tie_word_embeddings": tied, "max_position_embeddings": 131072,
    }  # fmt: skip


CONFIGS: dict[str, Facts] = {
    "l3lab/L1-1.5B-Short": _qwen2(1536, 8960, 28, 12, 2, 151936),
    "sail/Qwen2.5-Math-1.5B-Oat-Zero": _qwen2(1536, 8960, 28, 12, 2, 151936, tied=True),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": _qwen2(3584, 18944, 28, 28, 4, 152064),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B": _qwen2(5120, 13824, 48, 40, 8, 152064),
    "Qwen/QwQ-32B": _qwen2(5120, 27648, 64, 40, 8, 152064),
    "Qwen/Qwen3-0.6B": _qwen3(1024, 3072, 28, 16, tied=True),
    "Qwen/Qwen3-32B": _qwen3(5120, 25600, 64, 64),
    "meta-llama/Llama-3.2-1B": _llama(2048, 8192, 16, 32, 64, tied=True),
    "deepseek-ai/DeepSeek-R1-Distill-Llama-70B": _llama(8192, 28672, 80, 64, 128),
    "Qwen/Qwen3.5-0.8B": _qwen3_5(1024, 3584, 24, 8, 2, 16, tied=True),
    "Qwen/Qwen3.5-9B": _qwen3_5(4096, 12288, 32, 16, 4, 32),
    "Qwen/Qwen3.5-27B": _qwen3_5(5120, 17408, 64, 24, 4, 48),
    "openai/gpt-oss-20b": _gpt_oss(24, 32),
    "openai/gpt-oss-120b": _gpt_oss(36, 128),
    "google/gemma-3-1b-it": _gemma3(1152, 6912, 26, 4, 1, window=512) | {"vocab_size": 262144},
    "google/gemma-3-12b-it": _gemma3(3840, 15360, 48, 16, 8),
    "google/gemma-3-27b-it": _gemma3(5376, 21504, 62, 32, 16, head_dim=128),
}

# In the order of .env.example, then families that came later.
PAIRS: tuple[tuple[str, str], ...] = (
    ("l3lab/L1-1.5B-Short", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"),
    ("l3lab/L1-1.5B-Short", "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B"),
    ("l3lab/L1-1.5B-Short", "Qwen/QwQ-32B"),
    ("sail/Qwen2.5-Math-1.5B-Oat-Zero", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"),
    ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-32B"),
    ("meta-llama/Llama-3.2-1B", "deepseek-ai/DeepSeek-R1-Distill-Llama-70B"),
    ("Qwen/Qwen3.5-0.8B", "Qwen/Qwen3.5-9B"),
    ("Qwen/Qwen3.5-0.8B", "Qwen/Qwen3.5-27B"),
    ("openai/gpt-oss-20b", "openai/gpt-oss-120b"),
    ("google/gemma-3-1b-it", "google/gemma-3-12b-it"),
    ("google/gemma-3-1b-it", "google/gemma-3-27b-it"),
)
