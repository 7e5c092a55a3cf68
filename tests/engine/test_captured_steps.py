"""The CUDA path's bookkeeping on a CPU: block tables and padding to captured shapes.

The kernel is a naive one with `varlen_attn`'s signature, a graph is its function run again; what is left to a GPU
(tests marked gpu) is the kernel and the capture themselves. (Kernels of our own: test_kernels.py.)
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from model_worker.engine.engine import Engine
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward import attention_varlen, runner
from model_worker.engine.forward.capture import Body, Repeat
from model_worker.engine.forward.graph_shapes import shapes_for
from model_worker.engine.forward.loader import adopt
from model_worker.engine.measure import measure_steps
from model_worker.engine.types import Limits, Returns, RunRequest, Sampling
from tests.support.engines import generate, make_engine, make_engine_of, run_all, run_one
from tests.support.pairs import CONFIGS, VOCAB_SIZE, make_model
from tests.support.varlen import naive_varlen_attn
from tests.support.windowed import WINDOWED


@pytest.fixture(autouse=True)
def _naive_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_varlen, "varlen_attn", naive_varlen_attn)


PROMPTS = [[7, 8, 9, 10, 11], [20, 21, 22] * 9, [50], list(range(30, 100)), [5, 250, 17, 130]]


@pytest.mark.parametrize("graphs", ["off", "on"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt_neox"])
def test_varlen_decoding_equals_transformers_generate(architecture: str, graphs: str) -> None:
    engine, model = make_engine(architecture, max_batch_tokens=24, attention="varlen", graphs=graphs)
    requests = [RunRequest(f"s{i}", 0, prompt, max_tokens=25) for i, prompt in enumerate(PROMPTS)]
    for prompt, result in zip(PROMPTS, run_all(engine, requests), strict=True):
        assert result.tokens == generate(model, prompt, 25)
    counters = engine.counters
    assert counters.num_graph_steps + counters.num_graph_misses == (counters.num_steps if graphs == "on" else 0)
    assert (counters.num_graph_steps > 0) is (graphs == "on")


@pytest.mark.parametrize("graphs", ["off", "on"])
@pytest.mark.parametrize("family", ["mistral", "gemma3"])
def test_windows_hold_through_block_tables(family: str, graphs: str) -> None:
    model = make_model(WINDOWED[family], 0)
    engine = make_engine_of(copy.deepcopy(model), max_batch_tokens=24, attention="varlen", graphs=graphs)
    prompts = PROMPTS[:2]
    requests = [RunRequest(f"s{i}", 0, prompt, max_tokens=24) for i, prompt in enumerate(prompts)]
    for prompt, result in zip(prompts, run_all(engine, requests), strict=True):
        assert result.tokens == generate(model, prompt, 24)
    assert (engine.counters.num_graph_steps > 0) is (graphs == "on")


def test_the_path_that_steps_take_is_told() -> None:
    for wished, path in (("auto", "native"), ("in-place", "in-place"), ("gather", "gather"), ("varlen", "varlen")):
        assert make_engine(attention=wished)[0].path == path
    assert make_engine(attention="varlen", graphs="on", max_batch_tokens=8)[0].path == "varlen with graphs"


def test_measuring_at_the_start_leaves_no_graph_steps_behind() -> None:
    engine, _ = make_engine(attention="varlen", graphs="on", max_batch_tokens=64)
    measure_steps(engine, budget_s=1e-6)
    run_one(engine, RunRequest("s", 0, PROMPTS[0], max_tokens=3))
    assert engine.counters.num_graph_steps == engine.counters.num_steps == 3
    assert engine.counters.num_graph_misses == 0


class NoCapture(Repeat):
    """A device that cannot capture."""

    def record(self, body: Body) -> Body:
        raise RuntimeError("operation not permitted when stream is capturing")


class Deaf(Repeat):
    """A capture that goes wrong, as where a kernel's numbers are frozen at the value they had: it repeats nothing."""

    def record(self, body: Body) -> Body:
        return lambda: None


class Off(Repeat):
    """A capture whose repetitions compute a shade off."""

    def record(self, body: Body) -> Body:
        def replay() -> None:
            body()
            for cell in body.__closure__ or ():
                if hasattr(cell.cell_contents, "hidden") and hasattr(cell.cell_contents, "measured"):
                    cell.cell_contents.hidden = cell.cell_contents.hidden * (1 + 1e-12)

        return replay


def test_a_model_that_cannot_be_captured_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "Repeat", NoCapture)
    with pytest.raises(UnsupportedModel, match=r"not permitted when stream is capturing.*--graphs off"):
        make_engine(attention="varlen", graphs="on")


@pytest.mark.parametrize("capture", [Deaf, Off])
def test_a_step_that_does_not_repeat_its_function_is_refused(monkeypatch: pytest.MonkeyPatch, capture: Any) -> None:
    monkeypatch.setattr(runner, "Repeat", capture)
    with pytest.raises(UnsupportedModel, match=r"captured step of \d+ tokens.*does not repeat its own function"):
        make_engine(attention="varlen", graphs="on", max_batch_tokens=8)


def test_auto_goes_without_graphs_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device, where "auto" captures: a model of experts may not be capturable, and is served all the same."""
    monkeypatch.setattr(runner, "Repeat", NoCapture)
    monkeypatch.setattr(runner.Runner, "_wants_graphs", lambda self: True)
    engine, model = make_engine(attention="varlen")
    assert engine.path.startswith(
        "varlen without graphs, as its steps cannot be captured here: operation not permitted"
    )
    assert run_one(engine, RunRequest("s", 0, PROMPTS[0], max_tokens=5)).tokens == generate(model, PROMPTS[0], 5)


def test_every_batch_that_limits_allow_has_a_shape() -> None:
    """Except what is beyond the largest sizes, and more rows of several tokens than the extends have room for."""
    for limits in (Limits(VOCAB_SIZE, 512, 128), Limits(VOCAB_SIZE, 512, 3, max_batch_tokens=5), Limits(9, 64, 1)):
        shapes = shapes_for(limits)
        assert shapes == sorted(shapes)
        most_rows = min(limits.max_batch_tokens, limits.num_pages)
        assert [shape.num_rows for shape in shapes if shape.max_queries == 1][-1] >= min(most_rows, 256)
        for asked in (0, 1):
            extends = [shape for shape in shapes if shape.max_queries > 1 and shape.num_asked >= asked]
            assert extends[-1].num_tokens >= min(limits.max_batch_tokens, 512)
            assert max(shape.num_rows for shape in extends) >= min(most_rows, 64 if asked else 16)
    assert len(shapes_for(Limits(VOCAB_SIZE, 512, 1 << 14, max_batch_tokens=1 << 14))) == 31


@pytest.mark.parametrize("page_size", [16, 256])
def test_prompts_catch_up_and_decoding_in_every_shape(page_size: int) -> None:
    """Long prompts beside decoding, drafts, catch-up: no step is run uncaptured, and every token is the model's own."""
    engine, model = make_engine(attention="varlen", graphs="on", page_size=page_size, num_pages=2048 // page_size)
    prompts = [[(3 * i + 7 * n) % VOCAB_SIZE for i in range(n)] for n in (200, 1, 90, 130, 5, 33, 17)]
    for number, prompt in enumerate(prompts):  # each of them caught up in part
        if half := prompt[: len(prompt) // 2]:
            engine.submit(RunRequest(f"s{number}", 0, half))
    while not engine.is_idle:
        engine.step()
    requests = [
        RunRequest(f"s{number}", len(prompt) // 2, prompt[len(prompt) // 2 :], max_tokens=9)
        for number, prompt in enumerate(prompts)
    ]
    for prompt, result in zip(prompts, run_all(engine, requests), strict=True):
        assert result.tokens == generate(model, prompt, 9)
    assert engine.counters.num_graph_misses == 0


def test_a_batch_beyond_every_graph_is_counted_and_right() -> None:
    engine, model = make_engine(attention="varlen", graphs="on")
    requests = [RunRequest(f"s{index}", 0, [index + 5], max_tokens=2) for index in range(66)]
    results = run_all(engine, [*requests, RunRequest("longer", 0, PROMPTS[0], max_tokens=2)])
    assert results[-1].tokens == generate(model, PROMPTS[0], 2)
    assert results[40].tokens == generate(model, [45], 2)
    assert engine.counters.num_graph_misses == 1  # 67 rows, one of them longer than a token
    assert engine.counters.num_graph_steps == 1


def test_steps_that_only_catch_up_compute_no_logits() -> None:
    engine, _ = make_engine(attention="varlen", graphs="on", max_batch_tokens=64)
    calls: list[int] = []
    engine._runner._loaded.module.get_output_embeddings().register_forward_pre_hook(lambda *_: calls.append(1))
    engine.submit(RunRequest("s", 0, list(range(40))))
    engine.step()
    assert engine.is_idle
    assert (engine.counters.num_graph_steps, calls) == (1, [])


def test_sampling_and_proposals_are_the_same_with_graphs_and_without() -> None:
    found: list[Any] = []
    for graphs in ("off", "on"):
        engine, _ = make_engine("qwen3", attention="varlen", graphs=graphs, max_batch_tokens=32)
        sampling = Sampling(temperature=0.8, top_p=0.9, seed=5)
        decoded = run_one(engine, RunRequest("a", 0, PROMPTS[0], sampling, max_tokens=20))
        step = run_one(engine, RunRequest("b", 0, PROMPTS[0], returns=Returns(5, True)))
        proposal = step.finished.proposal
        found.append((decoded.tokens, proposal.token, [token for token, _ in proposal.top_logits]))
        hidden = torch.frombuffer(bytearray(proposal.hidden_state), dtype=torch.float32)
        found[-1] += (hidden.round(decimals=4).tolist(),)
    assert found[0] == found[1]


def test_what_the_kernel_cannot_do_is_refused_by_name_or_done_otherwise() -> None:
    model = make_model(CONFIGS["gemma2"], 0)
    with pytest.raises(UnsupportedModel, match="caps no scores"):
        Engine(adopt(model), Limits(VOCAB_SIZE, 512, num_pages=64, attention="varlen"))
    with pytest.raises(UnsupportedModel, match="graphs need attention through block tables"):
        Engine(adopt(model), Limits(VOCAB_SIZE, 512, num_pages=64, graphs="on"))
    Engine(adopt(model), Limits(VOCAB_SIZE, 512, num_pages=64))
