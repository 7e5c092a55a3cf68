"""Layers that see a window, a chunk or sinks: tokens are transformers' own, well beyond the window."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from model_worker.engine.engine import Engine
from model_worker.engine.forward.loader import adopt
from model_worker.engine.forward.masks_seen import SeenMasks
from model_worker.engine.forward.reach import EVERYTHING, Reach
from model_worker.engine.types import Limits, RunRequest
from tests.support.engines import generate, make_engine_of, run_all, run_one
from tests.support.pairs import CONTEXT_LENGTH, VOCAB_SIZE, make_model
from tests.support.windowed import WINDOW, WINDOWED

PROMPTS = [[7, 8, 9], [20, 21, 22] * 9, list(range(30, 100)), list(range(40, 40 + WINDOW))]
NUM_TOKENS = 2 * WINDOW + 5
PATHS: dict[str, dict[str, Any]] = {
    "native": {"attention": "native"},
    "in-place": {"attention": "in-place"},
    "gather": {"attention": "gather"},
    "invariant": {"batch_invariant": True},
}


@functools.cache
def own_answers(family: str) -> tuple[Any, list[list[int]]]:
    """The model, and what it says by itself."""
    model = make_model(WINDOWED[family], 0)
    return model, [generate(model, prompt, NUM_TOKENS) for prompt in PROMPTS]


# Experts are chosen by token, and multiplied for all tokens that chose them: no order of sums is promised.
@pytest.mark.parametrize(
    ("family", "path"),
    [(f, p) for f in WINDOWED for p in PATHS if p != "invariant" or f not in ("gpt_oss", "llama4")],
)
def test_a_mixed_batch_equals_generate_beyond_the_window(family: str, path: str) -> None:
    model, expected = own_answers(family)
    engine = make_engine_of(copy.deepcopy(model), max_batch_tokens=24, **PATHS[path])
    requests = [RunRequest(f"s{i}", 0, prompt, max_tokens=NUM_TOKENS) for i, prompt in enumerate(PROMPTS)]
    for tokens, result in zip(expected, run_all(engine, requests), strict=True):
        assert result.error is None
        assert result.tokens == tokens


@pytest.mark.parametrize("family", WINDOWED)
def test_rollbacks_drafts_and_scattered_pages_change_nothing(family: str) -> None:
    model = make_model(WINDOWED[family], 1)
    engine = make_engine_of(copy.deepcopy(model), num_pages=40, page_size=4)
    prompt = PROMPTS[2][:WINDOW]
    own = generate(model, prompt, 60)
    first = run_one(engine, RunRequest("s", 0, prompt, max_tokens=30))
    assert first.tokens == own[:30]
    for position in (len(prompt) + 25, len(prompt) + 3, 4):  # within the window and far before it
        said = [*prompt, *own]
        run_one(engine, RunRequest("s", position, [99, 98, 97], max_tokens=3))
        again = run_one(engine, RunRequest("s", position, said[position : len(prompt) + 26], max_tokens=10))
        assert again.tokens == own[26:36]
    draft = [*own[36:40], (own[40] + 1) % VOCAB_SIZE, 7]
    kept = run_one(engine, RunRequest("s", len(prompt) + 36, [], max_tokens=20, draft=draft))
    assert kept.tokens == own[36:41]  # a run ends at the first token of a draft that is not its own


@pytest.mark.parametrize("family", WINDOWED)
def test_each_layer_has_the_reach_of_its_config(family: str) -> None:
    config = WINDOWED[family]
    shapes = adopt(make_model(config, 0)).shapes
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * len(shapes)
    reaches = {
        "sliding_attention": Reach(window=WINDOW),
        "chunked_attention": Reach(chunk=WINDOW),
        "full_attention": EVERYTHING,
    }
    assert [shape.reach for shape in shapes] == [reaches[kind] for kind in kinds]
    assert {shape.has_sinks for shape in shapes} == {family == "gpt_oss"}


def test_a_window_as_long_as_the_context_is_none() -> None:
    model = make_model(WINDOWED["mistral"], 0)
    loaded = adopt(model, WINDOW)
    assert {shape.reach for shape in loaded.shapes} == {EVERYTHING}
    Engine(loaded, Limits(VOCAB_SIZE, WINDOW, num_pages=8))


def test_a_mask_without_a_name_is_told_from_those_that_have_one() -> None:
    def seen(function: Any, size: int = 0) -> Reach | None:
        masks = SeenMasks()
        return masks.reach_of(masks.make(mask_function=function, q_length=2, kv_length=2, local_size=size))

    def causal(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Any:
        return k <= q

    assert seen(causal) == EVERYTHING
    assert seen(lambda b, h, q, k: causal(b, h, q, k) & (k > q - 5), 5) == Reach(window=5)
    assert seen(lambda b, h, q, k: causal(b, h, q, k) & (k // 5 == q // 5), 5) == Reach(chunk=5)
    assert seen(lambda b, h, q, k: causal(b, h, q, k) & (k >= q - 5), 5) is None  # one key more than it says
    assert seen(lambda b, h, q, k: causal(b, h, q, k) | (k == 0), 0) == EVERYTHING
    assert seen(lambda b, h, q, k: k >= 0) is None  # both ways
    masks = SeenMasks()
    number = masks.make(mask_function=causal, q_length=2, kv_length=2)
    assert masks.reach_of(number + torch.tensor([0.0, 1.0])) is None  # with something added, as by ALiBi
    assert masks.reach_of(torch.zeros(1, 1, 2, 2)) is None
    assert masks.reach_of(None) == EVERYTHING


def test_a_session_sees_positions_of_its_own_where_the_model_counts_them() -> None:
    """Llama 4 scales queries by their position, counted by the length of a cache."""
    assert adopt(make_model(WINDOWED["llama4"], 0), CONTEXT_LENGTH).counts_positions
    assert not adopt(make_model(WINDOWED["mistral"], 0), CONTEXT_LENGTH).counts_positions
