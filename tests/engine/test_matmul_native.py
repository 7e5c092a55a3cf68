"""Laws of the matrix product for bfloat16 on a CPU: it is the plain product, and a row's bits are the row's own."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model_worker.engine.engine import Engine
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward import matmul_choice, native
from model_worker.engine.forward.loader import load
from model_worker.engine.forward.matmul_choice import Matmul
from model_worker.engine.forward.matmul_native import NativeMatmul
from model_worker.engine.types import Limits, RunRequest
from rstitch.local.part import bundled_model
from tests.support.engines import make_engine_of, run_all, run_one
from tests.support.pairs import CONFIGS, make_model

# (inputs, outputs): odd ones, ends within a vector, more than one chunk of a sum, a share of a thread and none.
SHAPES = [(1, 1), (7, 3), (16, 32), (33, 65), (96, 31), (1536, 40), (2049, 9), (4500, 34)]
COUNTS = [1, 2, 3, 4, 5, 7, 8, 16, 33, 40]
HALF_ULP = 2.0**-8  # of bfloat16, relative


def draw(*size: int) -> Tensor:
    return torch.randn(*size).to(torch.bfloat16)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check(made: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Compares with float64: one rounding to bfloat16, and what float32 loses of so many summands."""
    x64, w64 = x.double(), weight.double()
    expected = x64 @ w64.T + (0 if bias is None else bias.double())
    size = x64.abs() @ w64.abs().T + (0 if bias is None else bias.double().abs())
    assert made.dtype == torch.bfloat16
    assert made.shape == expected.shape
    difference = (made.double() - expected).abs()
    # A lane adds at most 256 products to one another before the lanes are added.
    assert bool((difference <= HALF_ULP * expected.abs() + 512 * 2.0**-24 * size).all())


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("has_bias", [False, True])
def test_it_is_the_product_rounded_once(inputs: int, outputs: int, has_bias: bool) -> None:
    torch.manual_seed(inputs)
    weight, bias = draw(outputs, inputs), draw(outputs) if has_bias else None
    multiply = NativeMatmul()
    for count in COUNTS:
        x = draw(count, inputs)
        check(multiply(x, weight, bias), x, weight, bias)


def test_of_a_thousand_rows_and_of_none() -> None:
    """More rows than are widened at once."""
    weight, multiply = draw(5, 20), NativeMatmul()
    x = draw(1030, 20)
    check(multiply(x, weight, None), x, weight, None)
    assert multiply(x[:0], weight, None).shape == (0, 5)


def test_any_number_of_dimensions_and_any_strides() -> None:
    torch.manual_seed(0)
    weight, bias, multiply = draw(48, 40).T, draw(80)[::2], NativeMatmul()
    assert not weight.is_contiguous()
    for x in (draw(2, 3, 48), draw(48, 6).T, draw(6, 100)[:, 2:50], draw(6, 96)[:, ::2], draw(48)):
        made = multiply(x, weight, bias)
        assert made.shape == (*x.shape[:-1], 40)
        check(made.reshape(-1, 40), x.reshape(-1, 48), weight, bias)


@pytest.mark.parametrize(("inputs", "outputs"), [(33, 65), (1536, 70), (4500, 34)])
def test_a_row_gets_the_same_bits_alone_in_any_batch_and_with_any_threads(inputs: int, outputs: int) -> None:
    torch.manual_seed(1)
    x, weight, bias, multiply = draw(40, inputs), draw(outputs, inputs), draw(outputs), NativeMatmul()
    with threads(1):
        alone = torch.cat([multiply(x[row : row + 1], weight, bias) for row in range(len(x))])
    for count in (1, 2, 3):
        with threads(count):
            for num in COUNTS:
                assert torch.equal(multiply(x[:num], weight, bias), alone[:num])
            assert torch.equal(multiply(x.flip(0), weight, bias), alone.flip(0))


def test_what_is_not_finite_stays_in_its_row_and_is_not_hidden() -> None:
    torch.manual_seed(2)
    x, weight, multiply = draw(6, 50), draw(9, 50).abs(), NativeMatmul()
    x[1, 49], x[2, 3], x[4, 0] = float("nan"), float("inf"), float("-inf")
    made = multiply(x, weight, None)
    assert made[1].isnan().all()
    assert (made[2] == float("inf")).all()
    assert (made[4] == float("-inf")).all()
    assert made[[0, 3, 5]].isfinite().all()
    assert multiply(torch.full((1, 4), 3e38).bfloat16(), draw(2, 4).fill_(2.0), None).isinf().all()


def bundled(**limits: Any) -> Engine:
    loaded = load(str(bundled_model("tiny-slm")), torch.bfloat16, torch.device("cpu"))
    return Engine(loaded, Limits(loaded.num_logits, 256, 64, **limits))


def test_the_bundled_model_is_served_by_either_and_its_path_says_by_which() -> None:
    """The check at the start compares each with the model's own logits."""
    for matmul, ending in (("native", ", matmul: native"), ("torch", "native")):
        engine = bundled(matmul=matmul)
        assert engine.path.endswith(ending)
        asked = [RunRequest(f"s{index}", 0, list(range(5, 20 + index)), max_tokens=8) for index in range(5)]
        assert all(len(result.tokens) == 8 or result.error is None for result in run_all(engine, asked))


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_logits_are_as_near_to_the_exact_ones_as_torchs(architecture: str) -> None:
    exact = make_model(CONFIGS[architecture], 0).to(torch.bfloat16)
    model = copy.deepcopy(exact)
    ids = torch.tensor([[7, 8, 9, 10, 11]])
    multiply, calls = NativeMatmul(), []

    def noted(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        calls.append(weight.shape)
        return multiply(x, weight, bias)

    with torch.inference_mode():
        own = model(input_ids=ids).logits
        Matmul(noted).put_into(model)
        ours = model(input_ids=ids).logits
        wide = exact.double()(input_ids=ids).logits
    assert len(calls) == sum(type(part) is nn.Linear for part in model.modules())
    assert (ours.double() - wide).norm() <= 1.2 * (own.double() - wide).norm()


@pytest.mark.parametrize(("most_rows", "least", "expected"), [(4, 0, [1, 4]), (None, 96, [4, 5]), (4, 96, [4])])
def test_some_products_are_left_to_torch(most_rows: int | None, least: int, expected: list[int]) -> None:
    calls: list[int] = []

    def noted(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        calls.append(len(x))
        return nn.functional.linear(x, weight, bias)

    layer = nn.Linear(8, 3).to(torch.bfloat16)
    Matmul(noted, most_rows, least).put_into(layer)
    for count in (1, 4, 5):
        layer(draw(count, 8))
    assert calls == expected


@pytest.mark.parametrize(
    ("shares", "whole", "said"),
    [
        ((0.5, 0.3, 0.2), False, "native"),
        ((1.1, 0.3, 0.2), False, "native"),
        ((0.9, 0.8, 3.0), False, "native up to 4 rows"),
        ((0.9, 1.8, 3.0), False, "native up to 1 rows"),
        ((0.9, 1.8, 0.9), False, "native up to 1 rows"),
        ((1.3, 1.1, 0.9), False, "torch, as native takes 1.10 times as long here"),
        ((1.2, 1.8, 3.0), False, "torch, as native takes 1.80 times as long here"),
        ((1.2, 1.8, 3.0), True, "native"),  # whatever a trial shows: it may show otherwise after a restart
    ],
)
def test_auto_goes_by_what_a_trial_shows(
    monkeypatch: pytest.MonkeyPatch, shares: tuple[float, ...], whole: bool, said: str
) -> None:
    trial = dict(zip((1, 4, 32), shares, strict=True))
    monkeypatch.setattr(matmul_choice, "_trial", lambda *_: trial)
    layer = nn.Linear(8, 3).to(torch.bfloat16)
    assert str(matmul_choice.choose_matmul(layer, "auto", whole=whole)) == said


def test_a_trial_runs_both() -> None:
    layer = nn.Linear(64, 96).to(torch.bfloat16)
    shares = matmul_choice._trial(NativeMatmul(), layer.weight)
    assert list(shares) == [1, 4, 32]
    assert all(share > 0 for share in shares.values())


def test_other_dtypes_are_torchs_and_native_for_them_is_refused() -> None:
    model = make_model(CONFIGS["llama"], 0)
    assert "matmul" not in make_engine_of(copy.deepcopy(model)).path
    with pytest.raises(
        UnsupportedModel, match=r"for bfloat16 on a CPU, not for torch.float64.* leave --matmul at auto"
    ):
        make_engine_of(model, matmul="native")


def test_without_a_compiler_it_says_why_and_multiplies_by_torch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "/bin/false")
    native.load_native.cache_clear()
    model = make_model(CONFIGS["llama"], 0).to(torch.bfloat16)
    try:
        engine = make_engine_of(copy.deepcopy(model))
        assert "matmul: torch, as native matrix products do not build here: /bin/false" in engine.path
        with pytest.raises(UnsupportedModel, match="/bin/false"):
            make_engine_of(model, matmul="native")
        with pytest.raises(UnsupportedModel, match=r"--batch-invariant: .*/bin/false.* --matmul torch"):
            make_engine_of(model, batch_invariant=True)
    finally:
        native.load_native.cache_clear()


def test_answers_do_not_depend_on_the_batch_without_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--batch-invariant` takes the kernel for all its products."""
    model = make_model(CONFIGS["qwen3"], 0).to(torch.bfloat16)
    engine = make_engine_of(model, batch_invariant=True, matmul="native")
    assert engine.path.endswith(", matmul: native")
    asked = [RunRequest(f"s{index}", 0, list(range(5, 10 + 7 * index)), max_tokens=12) for index in range(5)]
    alone = [run_one(engine, request) for request in asked]
    together = run_all(engine, asked)
    assert [(r.tokens, r.entropies) for r in together] == [(r.tokens, r.entropies) for r in alone]
