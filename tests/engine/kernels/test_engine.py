"""A whole engine on the kernels, in float32, against transformers' own `generate`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from model_worker.engine.engine import Engine
from model_worker.engine.forward import graphs as captured
from model_worker.engine.forward.loader import adopt
from model_worker.engine.types import Limits, RunRequest
from tests.support.engines import generate, run_all
from tests.support.pairs import CONFIGS, VOCAB_SIZE, make_model

PROMPTS = [[7, 8, 9, 10, 11], [20, 21, 22] * 5, [50]]


# One of each architecture and of each way; the others take long in the interpreter.
QUICK = {("llama", "off"), ("qwen3", "on"), ("gpt_neox", "off"), ("gemma2", "on")}
PATHS = [
    pytest.param(architecture, graphs, 16 if graphs == "off" else 256, marks=() if quick else pytest.mark.soak)
    for architecture in ("llama", "qwen3", "gpt_neox", "gemma2")
    for graphs in ("off", "on")
    for quick in [(architecture, graphs) in QUICK]
]


@pytest.mark.parametrize(("architecture", "graphs", "page_size"), PATHS)
def test_decoding_equals_transformers_generate(
    architecture: str, graphs: Any, page_size: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device.type == "cpu":  # few shapes: each is run once where it would be captured
        monkeypatch.setattr(captured, "DECODE_SIZES", (4,))
        monkeypatch.setattr(captured, "EXTEND_SIZES", (8,))
    model = make_model(CONFIGS[architecture], 0).to(torch.float32)
    limits = Limits(
        VOCAB_SIZE, 32, num_pages=256 // page_size * 3, page_size=page_size, max_batch_tokens=24,
        attention="triton", graphs=graphs,
    )  # fmt: skip
    engine = Engine(adopt(make_model(CONFIGS[architecture], 0).to(device, torch.float32), 32), limits)
    assert engine.path.startswith("triton with graphs" if graphs == "on" else "triton")
    requests = [RunRequest(f"s{i}", 0, prompt, max_tokens=4) for i, prompt in enumerate(PROMPTS)]
    for prompt, result in zip(PROMPTS, run_all(engine, requests), strict=True):
        assert result.tokens == generate(model, prompt, 4)
    assert (engine.counters.num_graph_steps > 0) is (graphs == "on")
