"""How a model's layers are divided among ranks: what transformers' plan says of each, and which numbers of ranks fit.

Nothing here is a list of models. A model without a plan, or one that asks for what is not done here (experts, states),
is refused by name. It divides nothing: that is dividing.py's.
"""

from __future__ import annotations

import math
import re
from enum import Enum
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.folder_checks import stored_format
from model_worker.engine.forward.loader import check_source
from model_worker.engine.forward.memory import has_states
from model_worker.engine.forward.quantizing import is_plain
from model_worker.engine.forward.rope_names import read_config


class Way(Enum):
    """How a linear layer is divided."""

    OUTPUTS = "outputs"  # each rank gives some of the outputs, and keeps them
    GATHERED = "gathered"  # likewise, and every rank gets those of all
    INPUTS = "inputs"  # each rank has some of the inputs, and every rank gets the sum
    CHOSEN_INPUTS = "chosen inputs"  # likewise, of inputs that every rank has all of


# transformers' words, the older ones too. What is not among them is not known here.
_WAYS = {
    "colwise": Way.OUTPUTS,
    "colwise_gather_output": Way.GATHERED,
    "colwise_rep": Way.GATHERED,
    "rowwise": Way.INPUTS,
    "rowwise_split_input": Way.CHOSEN_INPUTS,
}
# What every rank keeps as it is: norms of heads, which are the same for each head, and embeddings. These would have to
# be added up once more before the first layer; whole, they cost a card their bytes and no time.
_WHOLE = {"replicated_with_grad_allreduce", "embedding_rowwise"}


def check_divisible(model: str, size: int) -> None:
    """Raises UnsupportedModel if a model cannot be divided among so many ranks; reads its config, loads no weights."""
    source = check_source(model)
    try:
        config = read_config(model, source)
        stored = stored_format(model, config)
        with torch.device("meta"):
            module = AutoModelForCausalLM.from_config(config)
    except UnsupportedModel:
        raise
    except Exception as error:  # whatever its files may raise: each format has errors of its own
        raise UnsupportedModel(f"{model}: not loadable by transformers: {error}") from error
    ways_to_divide(model, module, stored, size)


def ways_to_divide(name: str, module: Any, stored: str, size: int) -> dict[str, Way]:
    """Returns what `planned` does, of a model whose folder has weights in the format `stored`, empty for none.

    Raises UnsupportedModel by `name` if it cannot be divided among so many ranks.
    """
    if stored:
        raise UnsupportedModel(f"{name}: its weights are quantized ({stored}); these are not divided, leave --tp out")
    if has_states(module.config.get_text_config()):
        raise UnsupportedModel(f"{name}: it has layers that keep states; these are not divided, leave --tp out")
    ways = planned(name, module)
    sizes = fitting_sizes(module, ways)
    if sizes is not None and size not in sizes:
        names = [str(fitting) for fitting in sizes]
        said = f"{', '.join(names[:-1])} and {names[-1]} do" if len(names) > 1 else f"only {names[0]} does"
        raise UnsupportedModel(f"{name}: --tp {size} does not divide its {_heads_of(module)}; {said}")
    return ways


def planned(name: str, module: Any) -> dict[str, Way]:
    """Returns the linear layers to divide, by their names in the module, and how. Raises UnsupportedModel by `name`."""
    plan: dict[str, str] = getattr(module, "_tp_plan", None) or {}
    parts = dict(module.named_modules())
    ways = {}
    for found in (*parts, *(parameter for parameter, _ in module.named_parameters())):
        rule = plan.get(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", found))
        if rule is None or rule in _WHOLE:
            continue
        if rule not in _WAYS or not is_plain(parts.get(found)):
            raise UnsupportedModel(
                f"{name}: transformers' plan to divide it says {rule} of {found}, which is not done here; "
                "leave --tp out"
            )
        ways[found] = _WAYS[rule]
    if not ways.keys() - {"lm_head"}:
        raise UnsupportedModel(f"{name}: transformers has no plan to divide its layers; leave --tp out")
    return ways


def fitting_sizes(module: Any, ways: dict[str, Way]) -> list[int] | None:
    """Returns the numbers of ranks among which its heads can be divided; None if any, as each rank has all heads."""
    if not any(way is Way.OUTPUTS and _is_of_attention(module, name) for name, way in ways.items()):
        return None
    common = math.gcd(*_heads(module))
    return [size for size in range(1, common + 1) if common % size == 0]


def bounds(num: int, rank: int, size: int) -> tuple[int, int]:
    """Returns which of `num` outputs or inputs are a rank's: equally many, or else whole sixteens where there are some.

    Both sides of a layer that is divided and added up again come to the same bounds. Sixteen numbers are what kernels
    read at once; the first ranks have one block more than the last.
    """
    block = 16 if num % size and num % 16 == 0 and num >= 16 * size else 1
    blocks, more = divmod(num // block, size)
    begin = rank * blocks + min(rank, more)
    return begin * block, (begin + blocks + (rank < more)) * block


def _is_of_attention(module: Any, name: str) -> bool:
    return hasattr(module.get_submodule(name.rpartition(".")[0]), "layer_idx")


def _heads(module: Any) -> tuple[int, int]:
    config = module.config.get_text_config()
    heads = int(config.num_attention_heads)
    return heads, int(getattr(config, "num_key_value_heads", None) or heads)


def _heads_of(module: Any) -> str:
    heads, kv_heads = _heads(module)
    return f"{heads} heads" if heads == kv_heads else f"{heads} heads and {kv_heads} heads of keys and values"
