"""Angles that depend on a sequence's length are those of `generate`, whatever the batch; YaRN stretches the context."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.llama import LlamaConfig
from transformers.models.phi3 import Phi3Config

from model_worker.engine.engine import Engine
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.loader import adopt
from model_worker.engine.types import Limits, RunRequest
from tests.support.engines import generate, run_all
from tests.support.pairs import VOCAB_SIZE, make_model

TRAINED = 24  # tokens that the small models were "trained" for
SIZES: dict[str, Any] = {
    "vocab_size": 304,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 2.5, 5.0, 9.0],
    "original_max_position_embeddings": TRAINED,
}


def longrope_model() -> Any:
    config = Phi3Config(
        **SIZES, max_position_embeddings=256, original_max_position_embeddings=TRAINED, rope_parameters=dict(LONG)
    )
    return make_model(config, 0)


def serve(model: Any, context_length: int) -> Engine:
    loaded = adopt(copy.deepcopy(model), context_length)
    return Engine(loaded, Limits(VOCAB_SIZE, context_length, num_pages=64, max_batch_tokens=32))


def test_beyond_the_trained_length_all_have_the_long_angles() -> None:
    model = longrope_model()
    prompts = [list(range(30, 30 + TRAINED + 6)), [7, 8, 9] * 20]
    engine = serve(model, 256)
    requests = [RunRequest(f"s{i}", 0, prompt, max_tokens=30) for i, prompt in enumerate(prompts)]
    # A short one beside them, which alone would have the short angles.
    *results, _ = run_all(engine, [*requests, RunRequest("short", 0, [5, 6], max_tokens=5)])
    for prompt, result in zip(prompts, results, strict=True):
        assert result.tokens == generate(model, prompt, 30)


def test_within_the_trained_length_all_have_the_short_angles() -> None:
    model = longrope_model()
    prompts = [[7, 8, 9], list(range(40, 50))]
    engine = serve(model, TRAINED)
    requests = [RunRequest(f"s{i}", 0, prompt, max_tokens=10) for i, prompt in enumerate(prompts)]
    for prompt, result in zip(prompts, run_all(engine, requests), strict=True):
        assert result.tokens == generate(model, prompt, 10)


def test_yarn_serves_the_context_that_it_stretches_to() -> None:
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
    model = make_model(LlamaConfig(**SIZES, max_position_embeddings=80, rope_parameters=yarn), 0)
    prompt = [index % 290 + 5 for index in range(150)]
    engine = serve(model, 256)
    (result,) = run_all(engine, [RunRequest("s", 0, prompt, max_tokens=20)])
    assert result.tokens == generate(model, prompt, 20)
    with pytest.raises(UnsupportedModel, match=r"--context-length 257 is over .* 256"):
        adopt(model, 257)


def test_a_context_beyond_what_the_model_is_made_for_is_refused() -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, max_position_embeddings=80), dtype=torch.float32)
    with pytest.raises(UnsupportedModel, match=r"--context-length 81 is over .* 80"):
        adopt(model, 81)


def test_dynamic_scaling_is_none_up_to_the_length_that_the_config_names() -> None:
    dynamic = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    model = make_model(LlamaConfig(**SIZES, max_position_embeddings=80, rope_parameters=dynamic), 0)
    prompts = [[index % 290 + 5 for index in range(50)], [7, 8, 9]]
    requests = [RunRequest(f"s{i}", 0, prompt, max_tokens=30) for i, prompt in enumerate(prompts)]
    for prompt, result in zip(prompts, run_all(serve(model, 80), requests), strict=True):
        assert result.tokens == generate(model, prompt, 30)
    with pytest.raises(UnsupportedModel, match="--context-length 81"):
        adopt(model, 81)
