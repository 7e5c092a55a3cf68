"""The laws on a CUDA device: the real kernel, real graphs, the fused pass. Skipped where there is none."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.llama import LlamaConfig

from model_worker.engine.engine import Engine
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.flight import Flight
from model_worker.engine.forward import runner
from model_worker.engine.forward.capture import Repeat
from model_worker.engine.forward.inversion import draw
from model_worker.engine.forward.loader import adopt
from model_worker.engine.forward.memory import weight_bytes
from model_worker.engine.forward.quantizing import Format, quantize
from model_worker.engine.types import GREEDY, Handoff, Limits, RunRequest, Sampling, Signal, TokenKept
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


@pytest.mark.parametrize("kind", ["int8", "int4", "fp8"])
@pytest.mark.parametrize("graphs", ["off", "on"])
def test_quantized_weights_are_served_as_their_own_code_computes_them(kind: Format, graphs: str) -> None:
    """What the check at the start compares, and that the device then holds fewer bytes."""
    sizes = CONFIGS["llama"].to_dict() | {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    model = AutoModelForCausalLM.from_config(LlamaConfig(**sizes), dtype=torch.bfloat16)
    before = weight_bytes(model)
    quantize(model, kind, torch.device("cuda:0"))
    assert weight_bytes(model) < 0.8 * before
    engine = Engine(adopt(model), Limits(VOCAB_SIZE, CONTEXT_LENGTH, num_pages=16, page_size=256, graphs=graphs))  # type: ignore[arg-type]
    assert len(run_all(engine, [RunRequest("s", 0, PROMPTS[0], max_tokens=8)])[0].tokens) == 8


def test_a_step_that_only_catches_up_ends_when_the_device_is_done() -> None:
    model = make_model(CONFIGS["llama"], 0).to("cuda")
    engine = Engine(adopt(model), Limits(VOCAB_SIZE, CONTEXT_LENGTH, num_pages=16, page_size=256))
    model.base_model.register_forward_hook(lambda *_: torch.cuda._sleep(200_000_000))  # cycles
    engine.submit(RunRequest("s", 0, PROMPTS[0]))
    engine.step()
    assert torch.cuda.current_stream().query(), "the host is ahead of the device"


@pytest.mark.parametrize("graphs", ["off", "on"])
def test_a_launch_waits_for_nothing(monkeypatch: pytest.MonkeyPatch, graphs: str) -> None:
    """Neither a step's own launch nor what it draws; torch raises at each call that would wait."""
    launch = Engine.launch

    def watched(engine: Engine) -> Flight:
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            return launch(engine)
        finally:
            torch.cuda.set_sync_debug_mode(before)

    model = make_model(CONFIGS["llama"], 0).to("cuda", torch.bfloat16)
    limits = Limits(VOCAB_SIZE, CONTEXT_LENGTH, num_pages=16, page_size=256, graphs=graphs, prefix_cache="share")  # type: ignore[arg-type]
    engine = Engine(adopt(model), limits)
    requests = [RunRequest(f"s{i}", 0, prompt, max_tokens=9) for i, prompt in enumerate(PROMPTS)]
    requests.append(RunRequest("drawn", 0, PROMPTS[0], Sampling(0.9, top_p=0.8, seed=4), max_tokens=9))
    requests.append(
        RunRequest("margin", 0, PROMPTS[1], max_tokens=5, handoff=Handoff(below=-1.0, signal=Signal.MARGIN))
    )
    requests.append(RunRequest("catch-up", 0, PROMPTS[3]))
    run_all(engine, requests)  # kernels are compiled at their first call, and may wait
    monkeypatch.setattr(Engine, "launch", watched)
    again = [replace(request, session_id=f"again {request.session_id}") for request in requests]
    for result in run_all(engine, again):
        if result.error is not None:
            raise result.error.__cause__ or result.error


def test_the_host_is_free_while_the_device_computes() -> None:
    model = make_model(CONFIGS["llama"], 0).to("cuda")
    engine = Engine(adopt(model), Limits(VOCAB_SIZE, CONTEXT_LENGTH, num_pages=16, page_size=256, graphs="off"))
    assert engine.overlaps
    engine.submit(RunRequest("s", 0, PROMPTS[0], max_tokens=3))
    engine.step()
    model.base_model.register_forward_hook(lambda *_: torch.cuda._sleep(200_000_000))  # cycles
    flight = engine.launch()
    assert not torch.cuda.current_stream().query(), "launch has waited for the device"
    engine.wait(flight)
    assert torch.cuda.current_stream().query(), "wait has not"


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_a_capture_gives_what_its_function_gives(monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    """In 16 bits, where padding a batch changes what is computed: beside the same function, padded alike, run again."""
    captured, tokens = decode(architecture, torch.bfloat16, graphs="on")
    assert captured.counters.num_graph_steps > 0
    monkeypatch.setattr(runner, "CudaCapture", lambda device: Repeat())
    assert decode(architecture, torch.bfloat16, graphs="on")[1] == tokens


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_graphs_change_no_token(architecture: str) -> None:
    """In float32, where what is left of rounding decides no token."""
    plain, expected = decode(architecture, torch.float32, graphs="off")
    assert plain.counters.num_graph_steps == 0
    try:
        captured, tokens = decode(architecture, torch.float32, graphs="on")
    except UnsupportedModel as error:
        pytest.skip(f"nothing to capture in float32: {error}")
    assert captured.counters.num_graph_steps > 0
    assert tokens == expected


def test_a_cache_leaves_the_device_with_its_engine() -> None:
    """And captured steps with it: the next model of a benchmark needs the room."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(2):
        decode("llama", torch.bfloat16, graphs="on")
        gc.collect()
        torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated() - before < 64 << 20  # what cuBLAS keeps


def test_drawn_tokens_are_those_of_the_cpu() -> None:
    logits = torch.randn(20, 151_936, generator=torch.Generator().manual_seed(2)) * 3
    samplings = [Sampling(1.0), Sampling(0.6, top_p=0.95), Sampling(1.0, top_k=50), Sampling(5.0)] * 5
    draws = [(index + 0.5) / 20 for index in range(20)]
    on_device, _ = draw(logits.cuda(), range(20), samplings, draws)
    assert on_device == draw(logits, range(20), samplings, draws)[0]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no second CUDA device")
def test_any_device_will_do() -> None:
    captured, tokens = decode("llama", torch.bfloat16, "cuda:1", graphs="on")
    assert captured.counters.num_graph_steps > 0
    assert tokens == decode("llama", torch.bfloat16, "cuda:0", graphs="on")[1]


def test_fused_measuring_equals_float64_on_the_device() -> None:
    fused = pytest.importorskip("model_worker.engine.forward.kernels.measuring")
    logits = torch.randn(64, 151_936, device="cuda") * 4
    exact = logits.double().log_softmax(-1)
    tokens, entropies, probabilities = fused.measure_fused(logits)
    assert tokens.long().tolist() == logits.argmax(-1).tolist()
    entropy = torch.special.entr(exact.exp()).sum(-1)
    torch.testing.assert_close(entropies.double(), entropy, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(probabilities.double(), exact.amax(-1).exp(), atol=0, rtol=2e-5)


def test_alternatives_and_penalties_are_those_of_the_cpu() -> None:
    """In float64, beside graphs, where rounding changes no token."""
    how = Sampling(0.9, 0.95, 40, 7, 0, 0.01, ((9, 2.0),), 1.0, 0.5, 1.3)

    def told(device: str, **sizes: int) -> dict[int, list[TokenKept]]:
        model = make_model(CONFIGS["llama"], 0).to(device, torch.float64)
        engine = Engine(adopt(model), Limits(VOCAB_SIZE, CONTEXT_LENGTH, **sizes))
        for index, prompt in enumerate(PROMPTS):
            sampling = replace(how, penalized_from=len(prompt)) if index % 2 else GREEDY
            engine.submit(RunRequest(f"s{index}", 0, prompt, sampling, 30, top_logprobs=5))
        found: dict[int, list[TokenKept]] = {}
        while not engine.is_idle:
            for event in engine.step():
                if isinstance(event, TokenKept):
                    found.setdefault(event.run_id, []).append(event)
        return found

    of_cpu, of_device = told("cpu", num_pages=128), told("cuda:0", num_pages=16, page_size=256)
    assert of_cpu.keys() == of_device.keys()
    for run_id, events in of_cpu.items():
        assert [event.token for event in of_device[run_id]] == [event.token for event in events]
        for one, other in zip(events, of_device[run_id], strict=True):
            assert one.alternatives is not None
            assert other.alternatives is not None
            assert [token for token, _ in other.alternatives] == [token for token, _ in one.alternatives]
            values = [value for _, value in one.alternatives]
            assert [value for _, value in other.alternatives] == pytest.approx(values, abs=1e-6)
