"""What the names of a config's fields do not tell: by family, fields to set. A dict is the fields of a part."""

from __future__ import annotations

from typing import Any

_WINDOWS = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2}
_SOME_WINDOWS = _WINDOWS | {"layer_types": ["full_attention", "sliding_attention"] * 2}
_HYBRID = ["linear_attention", "full_attention"] * 2
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 4}
_ROPE = {"rope_type": "default", "rope_theta": 1e4}
_INDEXER = {
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 16,
    "indexer_compress_ratio": 4,
}

HINTS: dict[str, dict[str, Any]] = {
    # Windows that are off by default, and are on in weights of the family.
    "phi3": {"sliding_window": 16},
    "qwen2": _SOME_WINDOWS,
    "qwen2_moe": _SOME_WINDOWS,
    "qwen3": _SOME_WINDOWS,
    "qwen3_moe": _WINDOWS,
    # Kinds of layers that the default does not have.
    "bamba": {"attn_layer_indices": [1, 3]},
    "granitemoehybrid": {"layer_types": _HYBRID},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    # Sizes that hang together, or are left to the weights.
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 32},
    },
    "blt": {
        "encoder_hash_byte_group_vocab": 64,
        "encoder_config": {"hidden_size_global": 32},
        "decoder_config": {"hidden_size_global": 32},
    },
    "cohere_compass_text": {"rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "gemma3n_text": {
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "activation_sparsity_pattern": [0.5, 0.0, 0.5, 0.0],
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 8,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "mamba2": {"num_heads": 8},
    "nemotron_h": {"layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"]},
    "dots3_note_text": _HEADS,
    "dots3_note": {
        "text_config": _HEADS,
        "vision_config": {"adapter_in_dim": 32, "adapter_out_dim": 32},
        "audio_config": {"adapter_input_size": 32, "adapter_out_dim": 32},
    },
    "minimax_m3_vl_text": {"layer_types": ["full_attention", "minimax_m3_sparse"] * 2},
    "qwen4_exp_text": _INDEXER,
    "qwen4_exp": {"text_config": _INDEXER},
    "zamba": {"attention_hidden_size": 64},
    "xlstm": {"mlstm_round_up_to_multiple_of": 8},
    "reformer": {"axial_pos_shape": [16, 16], "axial_pos_embds_dim": [16, 16], "attn_layers": ["local"] * 4},
    "xmod": {"default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1},
}
