"""The check at the start: what is wrong is refused in any precision and on any path, and rounding is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from model_worker.engine.engine import Engine
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward import attention_varlen
from model_worker.engine.forward.attention import PagedAttention
from model_worker.engine.forward.attention_tables import BlockTableAttention
from model_worker.engine.forward.graphs import Graph
from model_worker.engine.forward.loader import adopt
from model_worker.engine.types import Limits
from tests.support.engines import make_engine
from tests.support.pairs import CONFIGS, CONTEXT_LENGTH, VOCAB_SIZE, make_model
from tests.support.varlen import naive_varlen_attn

Forward = Callable[..., tuple[Tensor, None]]
_right: Forward = PagedAttention.forward


def with_a_key_too_few(self: PagedAttention, module: Any, query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Any:
    """The first key of a session weighs next to nothing."""
    out = _right(self, module, query, key, *args, **kwargs)
    self._cache.keys[module.layer_idx][self._groups[0][0].first] = -100.0 * query[0, ::2, -1].sign()
    return out


def with_a_wrong_scale(self: PagedAttention, module: Any, *args: Any, scaling: float, **kwargs: Any) -> Any:
    return _right(self, module, *args, scaling=1.1 * scaling, **kwargs)


def serve(architecture: str, dtype: torch.dtype, attention: Any) -> Engine:
    limits = Limits(VOCAB_SIZE, CONTEXT_LENGTH, 64, attention=attention)
    return Engine(adopt(make_model(CONFIGS[architecture], 0).to(dtype)), limits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize("attention", ["in-place", "auto"])
def test_rounding_is_no_reason_to_refuse(architecture: str, attention: str, dtype: torch.dtype) -> None:
    serve(architecture, dtype, attention)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("wrong", [with_a_key_too_few, with_a_wrong_scale])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_wrong_attention_is_refused(
    monkeypatch: pytest.MonkeyPatch, architecture: str, wrong: Forward, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(PagedAttention, "forward", wrong)
    with pytest.raises(UnsupportedModel, match=r"differ from the model's own by .*, more than"):
        serve(architecture, dtype, "in-place")


def test_captured_and_uncaptured_steps_are_both_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_varlen, "varlen_attn", naive_varlen_attn)
    limits: dict[str, Any] = {"attention": "varlen", "graphs": "on", "max_batch_tokens": 16}
    make_engine(**limits)
    with monkeypatch.context() as patch:
        begin = BlockTableAttention.begin  # only uncaptured steps go through it
        patch.setattr(BlockTableAttention, "begin", lambda self, batch, slots: begin(self, batch, slots.flip(0)))
        with pytest.raises(UnsupportedModel, match=r"uncaptured steps"):
            make_engine(**limits)
    write = Graph._write

    def write_at_wrong_places(self: Graph, batch: Any) -> Any:
        index = write(self, batch)
        self._fill[1][:] *= 2
        return index

    monkeypatch.setattr(Graph, "_write", write_at_wrong_places)  # the graph repeats its function, which is wrong
    with pytest.raises(UnsupportedModel, match=r"\(captured steps"):
        make_engine(**limits)
