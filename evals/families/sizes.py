"""How small a tiny model is, by the names that the fields of configs have. It knows no family."""

from __future__ import annotations

WINDOW = 16  # of windows and chunks, and of what else keeps tokens from others
CONTEXT_LENGTH = 256
NUM_TOKENS = 160  # ids of the vocabulary that are read and written; the rest are special ones
VOCAB_SIZE = 192
NUM_LAYERS = 4
HIDDEN = 32
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 8

# A feature that is off by default (None or 0) stays off.
_NAMES: tuple[tuple[int, str], ...] = (
    (VOCAB_SIZE, "vocab_size decoder_vocab_size vocab_size_per_layer_input unpadded_vocab_size"),
    (CONTEXT_LENGTH, "max_position_embeddings n_positions n_ctx max_seq_len max_target_positions context_length"),
    (
        HIDDEN,
        "hidden_size d_model n_embd emb_dim embedding_size embedding_dim word_embed_proj_dim input_embedding_size",
    ),
    (HIDDEN, "output_embedding_size attention_hidden_size lru_width cross_attention_hidden_size router_hidden_size"),
    (HIDDEN, "backbone_hidden_size ple_embed_dim"),
    (NUM_LAYERS, "num_hidden_layers n_layer n_layers num_layers decoder_layers num_decoder_layers num_blocks"),
    (NUM_LAYERS, "encoder_layers num_encoder_layers"),  # which the cache of a decoder alone counts, too
    (1, "num_dense_layers first_k_dense_replace num_mtp_layers index_local_blocks"),
    (HEADS, "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads"),
    (HEADS, "num_decoder_attention_heads num_encoder_attention_heads attention_heads swa_num_attention_heads"),
    (HEADS, "index_n_heads linear_num_value_heads linear_num_heads"),
    (KV_HEADS, "num_key_value_heads num_kv_heads swa_num_key_value_heads linear_num_key_heads mamba_n_groups"),
    (KV_HEADS, "mamba_ngroups n_groups n_mamba_heads o_groups"),
    (HEAD_DIM, "head_dim kv_channels dim_head d_head swa_head_dim qk_rope_head_dim qk_nope_head_dim v_head_dim"),
    (HEAD_DIM, "rotary_dim index_head_dim linear_key_head_dim linear_value_head_dim linear_head_dim mamba_d_head"),
    (HEAD_DIM, "mamba_head_dim mamba_headdim attention_head_size rel_extent d_rel"),
    (2 * HEAD_DIM, "attention_head_dim qk_head_dim"),
    (
        2 * HIDDEN,
        "intermediate_size n_inner ffn_dim decoder_ffn_dim encoder_ffn_dim ffn_hidden_size dff dim_ff d_inner",
    ),
    (2 * HIDDEN, "feed_forward_size intermediate_size_mlp dense_intermediate_size prefix_dense_intermediate_size"),
    (2 * HIDDEN, "mamba_d_ssm"),
    (2 * HIDDEN // HEAD_DIM, "mamba_n_heads mamba_num_heads"),
    (HIDDEN, "moe_intermediate_size shared_expert_intermediate_size shared_experts_intermediate_size"),
    (HIDDEN, "shared_intermediate_size expert_ffn_hidden_size moe_shared_expert_intermediate_size"),
    (16, "q_lora_rank kv_lora_rank o_lora_rank moe_latent_size"),
    (4, "num_experts num_local_experts n_routed_experts moe_num_experts"),
    (2, "num_experts_per_tok moe_topk moe_k top_k_experts n_group type_vocab_size index_topk_blocks"),
    (1, "topk_group n_shared_experts num_shared_experts moe_num_shared_experts"),
    (WINDOW, "sliding_window attention_chunk_size sliding_window_size window_size local_attention index_topk"),
    (WINDOW, "attention_window_size keep_window_size local_attention_window_len"),
    (WINDOW, "mamba_chunk_size chunk_size block_size"),
    (8, "mamba_d_state state_size ssm_state_size time_step_rank mamba_dt_rank floor_scale log_scaling_n_floor"),
    (4, "index_block_size"),
)
SIZES: dict[str, int] = {name: size for size, names in _NAMES for name in names.split()}
