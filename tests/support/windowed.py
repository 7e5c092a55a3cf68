"""Small configs of models that do not see everything: windows, chunks, sinks, and temperatures by position."""

from __future__ import annotations

from typing import Any

from transformers.models.cohere2 import Cohere2Config
from transformers.models.exaone4 import Exaone4Config
from transformers.models.gemma2 import Gemma2Config
from transformers.models.gemma3 import Gemma3TextConfig
from transformers.models.gpt_oss import GptOssConfig
from transformers.models.llama4 import Llama4TextConfig
from transformers.models.ministral import MinistralConfig
from transformers.models.mistral import MistralConfig
from transformers.models.olmo3 import Olmo3Config
from transformers.models.phi3 import Phi3Config

from tests.support.pairs import CONTEXT_LENGTH, STOP_TOKEN

WINDOW = 20

_SIZES: dict[str, Any] = {
    "vocab_size": 304,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT_LENGTH,
    "bos_token_id": None,
    "eos_token_id": STOP_TOKEN,
    "pad_token_id": 1,
    "tie_word_embeddings": False,
}
_MIXED = ["sliding_attention", "full_attention"] * 2

WINDOWED: dict[str, Any] = {
    "mistral": MistralConfig(**_SIZES, sliding_window=WINDOW),
    "ministral": MinistralConfig(**_SIZES, head_dim=16, sliding_window=WINDOW, layer_types=_MIXED),
    "phi3": Phi3Config(**_SIZES, sliding_window=WINDOW),
    "gemma2": Gemma2Config(**_SIZES, head_dim=16, sliding_window=WINDOW),
    "gemma3": Gemma3TextConfig(**_SIZES, head_dim=16, sliding_window=WINDOW, layer_types=_MIXED),
    "cohere2": Cohere2Config(**_SIZES, sliding_window=WINDOW, layer_types=_MIXED),
    "olmo3": Olmo3Config(**_SIZES, sliding_window=WINDOW, layer_types=_MIXED),
    "exaone4": Exaone4Config(**_SIZES, sliding_window=WINDOW, layer_types=_MIXED),
    "gpt_oss": GptOssConfig(
        **_SIZES,
        head_dim=16,
        sliding_window=WINDOW,
        layer_types=_MIXED,
        num_local_experts=4,
        num_experts_per_tok=2,
        experts_implementation="eager",  # torch's grouped product knows no float64
    ),
    "llama4": Llama4TextConfig(
        **_SIZES,
        head_dim=16,
        attention_chunk_size=WINDOW,
        num_local_experts=2,
        num_experts_per_tok=1,
        intermediate_size_mlp=64,
        no_rope_layers=[1, 0, 1, 0],
        layer_types=["chunked_attention", "full_attention"] * 2,
        attn_temperature_tuning=True,
        floor_scale=8,
    ),
}
