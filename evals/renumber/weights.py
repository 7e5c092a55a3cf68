"""A model's weights under other ids: the rows of its embedding and of its LM head change places alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from evals.renumber.tokens import Renumbering


@torch.no_grad()
def renumber_model(model: Any, by: Renumbering) -> None:
    """Changes a transformers causal LM in place; rows that only pad, and those of no token, stay where they are.

    Whatever has a row per token is changed: input embeddings, those of single layers, the LM head and its bias. Ids in
    its config and its generation config change alike.
    """
    num_rows = model.get_input_embeddings().num_embeddings
    rows = torch.arange(num_rows)
    rows[torch.tensor(list(by.ids.values()), dtype=torch.long)] = torch.tensor(list(by.ids), dtype=torch.long)
    done: set[int] = set()
    for tensor in _by_token(model, num_rows):
        if tensor.data_ptr() not in done:  # a tied head is the embedding itself
            done.add(tensor.data_ptr())
            tensor.copy_(tensor[rows])
    for config in (model.config, model.generation_config):
        for name, value in list(vars(config).items()):
            if name.endswith("_token_id") and value is not None:
                setattr(config, name, by.id_of(value))


def _by_token(model: nn.Module, num_rows: int) -> list[Tensor]:
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    tensors = [head.weight] if head.bias is None else [head.weight, head.bias]
    modules = (module for module in model.modules() if isinstance(module, nn.Embedding))
    return [*tensors, *(module.weight for module in modules if module.num_embeddings == num_rows)]
