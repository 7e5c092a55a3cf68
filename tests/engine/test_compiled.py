"""The laws of the engine with compiled steps, and what a start does with the code that is kept on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model_worker.engine.engine import Engine
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward import compiled
from model_worker.engine.forward.matmul_native import NativeMatmul
from model_worker.engine.types import Handoff, Returns, RunRequest, Sampling
from tests.support.engines import generate, make_engine, make_engine_of, run_all, run_one
from tests.support.pairs import CONFIGS, make_model

# Whichever comes first compiles a step, which on a busy machine takes minutes.
pytestmark = pytest.mark.timeout(300)

PROMPTS = [[7, 8, 9, 10, 11], [20, 21, 22] * 9, [50], list(range(30, 100)), [5, 250, 17, 130]]


@pytest.fixture
def cache(compiled_code: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(compiled_code))
    return compiled_code / "rstitch"


def _engine(architecture: str = "llama", **limits: Any) -> tuple[Engine, Any]:
    engine, model = make_engine(architecture, **{"compile": "on", "max_batch_tokens": 24} | limits)
    assert engine.path.endswith(", compiled")
    return engine, model


def _forbid_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("it would be compiled")

    monkeypatch.setattr(compiled, "_compile", refuse)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    "architecture",
    ["llama", *(pytest.param(name, marks=pytest.mark.soak) for name in ("qwen3", "gemma", "gemma2", "gpt_neox"))],
)
def test_decoding_equals_transformers_generate_alone_and_among_others(architecture: str) -> None:
    engine, model = _engine(architecture)
    requests = [RunRequest(f"s{i}", 0, prompt, max_tokens=25) for i, prompt in enumerate(PROMPTS)]
    expected = [generate(model, prompt, 25) for prompt in PROMPTS]
    assert [result.tokens for result in run_all(engine, requests)] == expected
    for index, prompt in enumerate(PROMPTS):
        assert run_one(engine, RunRequest(f"alone{index}", 0, prompt, max_tokens=25)).tokens == expected[index]


@pytest.mark.usefixtures("cache")
def test_what_a_step_tells_is_what_it_tells_without(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    for compile_ in ("off", "on"):
        engine, _ = make_engine(compile=compile_)
        sampled = run_one(engine, RunRequest("a", 0, PROMPTS[1], Sampling(0.8, top_p=0.9, seed=5), max_tokens=30))
        greedy = run_one(engine, RunRequest("b", 0, PROMPTS[0], max_tokens=20))
        handed = run_one(engine, RunRequest("c", 0, PROMPTS[0], max_tokens=20, handoff=Handoff(above=0.2)))
        drafted = run_one(engine, RunRequest("d", 0, PROMPTS[0], max_tokens=4, draft=(*greedy.tokens[:3], 9)))
        step = run_one(engine, RunRequest("e", 0, PROMPTS[2], returns=Returns(5, True)))
        proposal = step.finished.proposal
        told.append([sampled.tokens, greedy.tokens, handed.tokens, drafted.tokens, drafted.finished.num_accepted])
        told[-1] += [proposal.token, [token for token, _ in proposal.top_logits]]
        told[-1].append([round(value, 5) for result in (sampled, greedy) for value in result.entropies])
    assert told[0] == told[1]


@pytest.mark.usefixtures("cache")
def test_a_second_engine_takes_what_is_kept_and_has_its_own_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    first, first_model = _engine(seed=0)
    _forbid_compiling(monkeypatch)
    second, second_model = _engine(seed=1)
    for _ in range(2):  # in turn: neither reads the other's weights or cache
        for engine, model in ((first, first_model), (second, second_model)):
            assert run_one(engine, RunRequest("s", 0, PROMPTS[1], max_tokens=10)).tokens == generate(
                model, PROMPTS[1], 10
            )


@pytest.mark.soak
@pytest.mark.usefixtures("cache")
@pytest.mark.timeout(600)
def test_compiled_code_calls_the_matrix_products_that_are_not_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check at the start runs through them, compiled."""
    calls: list[int] = []
    own = NativeMatmul.__call__

    def noted(self: NativeMatmul, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        calls.append(weight.shape[0])
        return own(self, x, weight, bias)

    monkeypatch.setattr(NativeMatmul, "__call__", noted)
    model = make_model(CONFIGS["llama"], 0).to(torch.bfloat16)
    num_products = sum(type(part) is nn.Linear for part in model.modules())
    engine = make_engine_of(model, compile="on", matmul="native")
    assert engine.path == "native, compiled, matmul: native"
    calls.clear()
    assert len(run_one(engine, RunRequest("s", 0, PROMPTS[0], max_tokens=4)).tokens) == 4
    assert len(calls) == 4 * num_products


def test_auto_takes_what_is_kept_alone_and_says_so(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _engine()
    _forbid_compiling(monkeypatch)
    path = make_engine(compile="auto", max_batch_tokens=24)[0].path
    # Which of the two is faster here and now is not this test's to say.
    assert path.endswith((", compiled", " times as long here"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "no compiled step is kept for it; start once with --compile on" in make_engine(compile="auto")[0].path


@pytest.mark.usefixtures("cache")
def test_code_is_for_a_number_of_threads_and_right_with_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `--share-cores` the number changes from step to step; a start with another finds code of its own alone."""
    engine, model = _engine()
    _forbid_compiling(monkeypatch)
    before = torch.get_num_threads()
    try:
        for index, num_threads in enumerate((before + 1, 1, 3, before)):
            torch.set_num_threads(num_threads)
            requests = [RunRequest(f"{index}-{i}", 0, prompt, max_tokens=12) for i, prompt in enumerate(PROMPTS)]
            told = [result.tokens for result in run_all(engine, requests)]
            assert told == [generate(model, prompt, 12) for prompt in PROMPTS]
        torch.set_num_threads(before + 1)
        assert "no compiled step is kept for it" in make_engine(compile="auto", max_batch_tokens=24)[0].path
    finally:
        torch.set_num_threads(before)


def test_what_cannot_be_compiled_or_read_is_refused_by_name(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with monkeypatch.context() as broken:
        _forbid_compiling(broken)
        with pytest.raises(UnsupportedModel, match="it would be compiled"):
            make_engine(compile="on")

    def cut_short(body: object, attention: object, loaded: object, file: Path) -> None:
        file.write_bytes(b"PK")

    monkeypatch.setattr(compiled, "_compile", cut_short)
    with pytest.raises(UnsupportedModel, match=r"step-\w+\.pt2"):
        make_engine(compile="on")
    assert not list(tmp_path.glob("rstitch/*.pt2")), "what cannot be read is made anew the next time"


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_with_its_session(bad: float) -> None:
    """Beside those that decode, and on its pages when it has left."""
    own, model = make_model(CONFIGS["llama"], 0), make_model(CONFIGS["llama"], 0)
    with torch.no_grad():
        own.get_input_embeddings().weight[299, 3] = bad
    engine = make_engine_of(own, compile="on", max_batch_tokens=24)
    assert engine.path.endswith(", compiled")
    expected = generate(model, PROMPTS[0], 12)
    for broken in (RunRequest("c", 0, [20, 299, 21]), RunRequest("c", 0, [20, 299, 21], max_tokens=2)):
        requests = [RunRequest(f"a{number}", 0, PROMPTS[0], max_tokens=12) for number in range(3)]
        *others, failed = run_all(engine, [*requests, broken])
        assert [result.tokens for result in others] == [expected] * 3
        assert (failed.error is None) is (not broken.max_tokens)
        engine.close_session("c")
