"""The laws on a CUDA device: the real kernel, real graphs, the fused pass. Skipped where there is none."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from model_worker.engine.engine import Engine
from model_worker.engine.forward.loader import adopt
from model_worker.engine.types import Limits, RunRequest
from tests.support.engines import run_all
from tests.support.pairs import CONFIGS, CONTEXT_LENGTH, VOCAB_SIZE, make_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
PROMPTS = [[7, 8, 9, 10, 11], [20, 21, 22] * 9, [50], list(range(30, 100)), [5, 250, 17, 130]]


def decode(
    architecture: str, dtype: torch.dtype, device: str = "cuda:0", **limits: object
) -> tuple[Engine, list[list[int]]]:
    model = make_model(CONFIGS[architecture], 0).to(device, dtype)
    sizes = Limits(VOCAB_SIZE, CONTEXT_LENGTH, num_pages=16, page_size=256, **limits)  # type: ignore[arg-type]
    engine = Engine(adopt(model), sizes)
    requests = [RunRequest(f"s{i}", 0, prompt, max_tokens=30) for i, prompt in enumerate(PROMPTS)]
    with ThreadPoolExecutor(1) as thread:  # a worker's engine steps in another thread than the one that made it
        return engine, [result.tokens for result in thread.submit(run_all, engine, requests).result()]


@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_device_decodes_what_the_cpu_decodes(architecture: str) -> None:
    cpu = Engine(adopt(make_model(CONFIGS[architecture], 0)), Limits(VOCAB_SIZE, CONTEXT_LENGTH, num_pages=128))
    requests = [RunRequest(f"s{i}", 0, prompt, max_tokens=30) for i, prompt in enumerate(PROMPTS)]
    expected = [result.tokens for result in run_all(cpu, requests)]
    assert decode(architecture, torch.float64)[1] == expected


def test_a_step_that_only_catches_up_ends_when_the_device_is_done() -> None:
    model = make_model(CONFIGS["llama"], 0).to("cuda")
    engine = Engine(adopt(model), Limits(VOCAB_SIZE, CONTEXT_LENGTH, num_pages=16, page_size=256))
    model.base_model.register_forward_hook(lambda *_: torch.cuda._sleep(200_000_000))  # cycles
    engine.submit(RunRequest("s", 0, PROMPTS[0]))
    engine.step()
    assert torch.cuda.current_stream().query(), "the host is ahead of the device"


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_graphs_change_no_token(architecture: str) -> None:
    captured, tokens = decode(architecture, torch.bfloat16, attention="varlen", graphs="on")
    plain, expected = decode(architecture, torch.bfloat16, attention="varlen", graphs="off")
    assert captured.counters.num_graph_steps > 0
    assert plain.counters.num_graph_steps == 0
    assert tokens == expected


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no second CUDA device")
def test_any_device_will_do() -> None:
    captured, tokens = decode("llama", torch.bfloat16, "cuda:1", attention="varlen", graphs="on")
    assert captured.counters.num_graph_steps > 0
    assert tokens == decode("llama", torch.bfloat16, "cuda:0", attention="varlen", graphs="on")[1]


def test_fused_measuring_equals_float64_on_the_device() -> None:
    fused = pytest.importorskip("model_worker.engine.forward.kernels.measuring")
    logits = torch.randn(64, 151_936, device="cuda") * 4
    exact = logits.double().log_softmax(-1)
    tokens, entropies, probabilities = fused.measure_fused(logits)
    assert tokens.long().tolist() == logits.argmax(-1).tolist()
    entropy = torch.special.entr(exact.exp()).sum(-1)
    torch.testing.assert_close(entropies.double(), entropy, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(probabilities.double(), exact.amax(-1).exp(), atol=0, rtol=2e-5)
