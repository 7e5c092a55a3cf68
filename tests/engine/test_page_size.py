"""Which size of pages a worker takes by itself, for devices that are not there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from model_worker.engine.forward import attention_varlen
from model_worker.engine.forward.attention_choice import default_page_size
from model_worker.engine.forward.kv_cache import LayerShape
from tests.support.varlen import naive_varlen_attn

PLAIN, CAPPED, NARROW = LayerShape(2, 64, 64, None), LayerShape(2, 64, 64, 50.0), LayerShape(2, 96, 64, None)


def without_block_tables(query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, max_q: int, max_k: int) -> Any:
    raise AssertionError


@pytest.mark.parametrize(
    ("device", "kernel", "options", "page_size"),
    [
        ("cpu", naive_varlen_attn, {}, 16),
        ("cpu", naive_varlen_attn, {"wish": "native", "dtype": torch.float32}, 16),
        ("cuda", naive_varlen_attn, {}, 256),  # the only size that it takes
        ("cuda:1", naive_varlen_attn, {"shapes": [PLAIN], "dtype": torch.float16}, 256),
        ("cuda", naive_varlen_attn, {"wish": "varlen"}, 256),
        # What follows is our own kernel's.
        ("cuda", without_block_tables, {}, 64),
        ("cuda", naive_varlen_attn, {"wish": "triton"}, 64),
        ("cuda", naive_varlen_attn, {"dtype": torch.float32}, 64),
        ("cuda", naive_varlen_attn, {"shapes": [PLAIN, CAPPED]}, 64),
        ("cuda", naive_varlen_attn, {"shapes": [NARROW]}, 64),
        ("cuda", naive_varlen_attn, {"batch_invariant": True}, 64),
    ],
)
def test_pages_are_as_small_as_the_attention_that_comes_first_takes(
    device: str,
    kernel: Callable[..., Any],
    options: dict[str, Any],
    page_size: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention_varlen, "varlen_attn", kernel)
    assert default_page_size(torch.device(device), **options) == page_size
