"""A model in which one token's keys or values alone are not finite, in one layer, while all else of it is."""

from __future__ import annotations

from typing import Any, Literal

import torch

from tests.support.pairs import CONFIGS, make_model

# Two places of the hidden state that only the broken token uses, and that no layer writes to.
_PLACES = (30, 31)
_HUGE = 1e308  # in float64 its product with what a norm lets through is not finite


def make_overflowing(
    token: int, layer: int, part: Literal["k", "v"], bad: Literal["NaN", "inf", "-inf"], seed: int = 0
) -> tuple[Any, Any]:
    """The model, and a copy of it in which the token's keys or values in the layer are `bad`.

    All other tokens' are the same in both, to the last bit.
    """
    model, broken = (_apart(make_model(CONFIGS["llama"], seed), token) for _ in range(2))
    weight = getattr(broken.model.layers[layer].self_attn, f"{part}_proj").weight
    one, other = {"NaN": (_HUGE, -_HUGE), "inf": (_HUGE, 0.0), "-inf": (-_HUGE, 0.0)}[bad]
    with torch.no_grad():
        weight[0, _PLACES[0]], weight[0, _PLACES[1]] = one, other
    return model, broken


def _apart(model: Any, token: int) -> Any:
    places = list(_PLACES)
    with torch.no_grad():
        embeddings = model.get_input_embeddings().weight
        embeddings[:, places] = 0
        embeddings[token, places] = 100.0
        for each in model.model.layers:
            for module in (each.self_attn.q_proj, each.self_attn.k_proj, each.self_attn.v_proj):
                module.weight[:, places] = 0
            for module in (each.mlp.gate_proj, each.mlp.up_proj):
                module.weight[:, places] = 0
            for module in (each.self_attn.o_proj, each.mlp.down_proj):
                module.weight[places] = 0
        model.get_output_embeddings().weight[:, places] = 0
    return model
