"""Small configs of models whose layers keep states: recurrences and convolutions, beside attention or in its stead."""

from __future__ import annotations

from typing import Any

from transformers.models.bamba import BambaConfig
from transformers.models.falcon_h1 import FalconH1Config
from transformers.models.granitemoehybrid import GraniteMoeHybridConfig
from transformers.models.jamba import JambaConfig
from transformers.models.kimi_linear import KimiLinearConfig
from transformers.models.lfm2 import Lfm2Config
from transformers.models.lfm3 import Lfm3Config
from transformers.models.mamba2 import Mamba2Config
from transformers.models.nemotron_h import NemotronHConfig
from transformers.models.olmo_hybrid import OlmoHybridConfig
from transformers.models.qwen3_5 import Qwen3_5TextConfig
from transformers.models.qwen3_next import Qwen3NextConfig
from transformers.models.zaya import ZayaConfig

from tests.support.pairs import CONTEXT_LENGTH, STOP_TOKEN

_SIZES: dict[str, Any] = {
    "vocab_size": 304,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT_LENGTH,
    "bos_token_id": None,
    "eos_token_id": STOP_TOKEN,
    "pad_token_id": 1,
    "tie_word_embeddings": False,
}
_DELTA: dict[str, Any] = {
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}
_MAMBA: dict[str, Any] = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 16,
    "mamba_n_groups": 2,
    "mamba_chunk_size": 16,
}

RECURRENT: dict[str, Any] = {
    "qwen3_5": Qwen3_5TextConfig(**_SIZES, **_DELTA),
    "qwen3_next": Qwen3NextConfig(
        **_SIZES,
        **_DELTA,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        experts_implementation="eager",
    ),
    "olmo_hybrid": OlmoHybridConfig(**_SIZES, **{k: v for k, v in _DELTA.items() if k != "head_dim"}),
    "granite": GraniteMoeHybridConfig(
        **_SIZES,
        **_MAMBA,
        layer_types=["mamba", "attention", "mamba"],
        num_local_experts=0,
        shared_intermediate_size=32,
        position_embedding_type="rope",
    ),
    "lfm2": Lfm2Config(**_SIZES, layer_types=["conv", "full_attention", "conv"]),
    "nemotron": NemotronHConfig(
        **{**_SIZES, "num_hidden_layers": 4},
        layers_block_type=["mamba", "attention", "mlp", "mamba"],
        mamba_num_heads=8,
        mamba_head_dim=8,
        ssm_state_size=16,
        n_groups=2,
        chunk_size=16,
        head_dim=16,
    ),
    "bamba": BambaConfig(**_SIZES, **_MAMBA, attn_layer_indices=[1]),
    "falcon_h1": FalconH1Config(**_SIZES, **_MAMBA, mamba_d_ssm=64, head_dim=16),
    "jamba": JambaConfig(
        **_SIZES,
        attn_layer_period=3,
        attn_layer_offset=1,
        num_experts=1,
        num_experts_per_tok=1,
        mamba_d_state=8,
        mamba_dt_rank=4,
    ),
    "kimi": KimiLinearConfig(
        **{**_SIZES, "num_key_value_heads": 4},
        linear_head_dim=8,
        linear_num_heads=4,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
        mlp_layer_types=["dense", "sparse", "dense"],
        num_local_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        n_group=1,
        topk_group=1,
        experts_implementation="eager",
    ),
    "lfm3": Lfm3Config(
        **_SIZES,
        layer_types=["conv", "full_attention", "sliding_attention"],
        sliding_window=16,
        experts_implementation="eager",
    ),
    # Convolutions of what attention is given, and states without attention.
    "zaya": ZayaConfig(**_SIZES, experts_implementation="eager"),
    "mamba2": Mamba2Config(
        **{key: _SIZES[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers")},
        **{key: _SIZES[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings")},
        num_heads=8,
        head_dim=8,
        state_size=16,
        n_groups=2,
        chunk_size=16,
    ),
}
