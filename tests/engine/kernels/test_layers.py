"""Norms, rotation and gates against transformers' own code, rounding included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from model_worker.engine.forward.fused_modules import matching_norm
from model_worker.engine.forward.kernels.layers import gated, rope_and_write

DTYPES = [torch.float32, torch.float16]


def normal(*shape: int, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [LlamaRMSNorm, Gemma2RMSNorm])
def test_norms_are_found_out_by_what_they_give(kind: type[nn.Module], dtype: torch.dtype, device: torch.device) -> None:
    module = kind(80).to(device, dtype)
    module.weight.data = normal(80, dtype=dtype, device=device)
    x = normal(1, 3, 80, dtype=dtype, device=device, seed=1) * 5
    found = matching_norm(module, x, module(x))
    assert found is not None
    assert found.norm.is_offset is (kind is Gemma2RMSNorm)
    other = normal(1, 2, 80, dtype=dtype, device=device, seed=2)
    torch.testing.assert_close(found(other), module(other), rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_what_is_no_such_norm_is_not_found(device: torch.device) -> None:
    module = LlamaRMSNorm(80).to(device)
    x = normal(1, 3, 80, dtype=torch.float32, device=device)
    assert matching_norm(module, x, module(x) * 1.001) is None
    assert matching_norm(nn.LayerNorm(80, device=device), x, x) is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rotated", [16, 8])
def test_rotation_and_cache_write(rotated: int, dtype: torch.dtype, device: torch.device) -> None:
    """Bit for bit; `rotated` below the head's 16 leaves the rest of a head as it is."""
    tokens, heads, kv_heads, dim = 3, 4, 2, 16
    states = normal(tokens, (heads + 2 * kv_heads) * dim, dtype=dtype, device=device)
    q, k, v = states.split([heads * dim, kv_heads * dim, kv_heads * dim], dim=-1)
    angles = torch.rand(tokens, rotated // 2, generator=torch.Generator().manual_seed(1)).repeat(1, 2) * 6
    cos, sin = angles.cos().to(device, dtype), angles.sin().to(device, dtype)
    cache = tuple(torch.full((10, kv_heads, dim), 7.0, dtype=dtype, device=device) for _ in range(2))
    slots = torch.tensor([4, 9, 0], device=device)
    out = rope_and_write(q, k, v, (cos, sin), (cache[0], cache[1]), slots)

    query, key = (t.unflatten(1, (-1, dim)).transpose(0, 1)[None] for t in (q, k))
    turned = apply_rotary_pos_emb(query[..., :rotated], key[..., :rotated], cos[None], sin[None])
    query, key = (
        torch.cat([a, b[..., rotated:]], -1)[0].transpose(0, 1) for a, b in zip(turned, (query, key), strict=True)
    )
    assert torch.equal(out, query)
    assert torch.equal(cache[0][slots], key)
    assert torch.equal(cache[1][slots], v.unflatten(1, (-1, dim)))
    untouched = [slot for slot in range(10) if slot not in slots.tolist()]
    assert (cache[0][untouched] == 7).all()
    assert (cache[1][untouched] == 7).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["silu", "gelu_pytorch_tanh"])
def test_gates(name: str, dtype: torch.dtype, device: torch.device) -> None:
    x = normal(1, 2, 2 * 1100, dtype=dtype, device=device) * 4
    gate, up = x.chunk(2, dim=-1)
    expected = ACT2FN[name](gate) * up
    torch.testing.assert_close(gated(x, name != "silu"), expected, rtol=4 * torch.finfo(dtype).eps, atol=2e-6)
