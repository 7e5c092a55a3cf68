"""The cached model is the uncached one, by whichever name its `transformers` calls the cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from evals.algorithm.cached_model import CachedModel
from tests.support.pairs import CONFIGS, make_model


class OneName(torch.nn.Module):
    """A model whose forward knows one name only, and hands the cache on by whatever name the real one has."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner, self.config = inner, inner.config
        self.argument = CachedModel(inner)._argument


class OldName(OneName):
    """As before transformers 5.24."""

    def forward(self, ids: torch.Tensor, past_key_values: Any, **kwargs: Any) -> Any:
        return self.inner(ids, **{self.argument: past_key_values}, **kwargs)


class NewName(OneName):
    """As from transformers 5.24 on."""

    def forward(self, ids: torch.Tensor, cache: Any, **kwargs: Any) -> Any:
        return self.inner(ids, **{self.argument: cache}, **kwargs)


@pytest.mark.parametrize("wrapped", [lambda inner: inner, OldName, NewName], ids=["own", "past_key_values", "cache"])
def test_appending_and_cropping_give_the_logits_of_the_whole(wrapped: Any) -> None:
    inner = make_model(CONFIGS["llama"], seed=1)
    model = CachedModel(wrapped(inner))
    tokens = list(range(10, 30))
    model.append(tokens[:12])
    model.append([99, 98, 97])  # a draft that nobody keeps
    model.crop(12)
    assert len(model) == 12
    torch.testing.assert_close(model.append(tokens[12:]), inner(torch.tensor([tokens])).logits[0, -1].detach())
