"""The rows of the SLM's LM head that a head reads out. No service tells them: the SLM's files are read, on the CPU.

Of the files it is the LM head alone, and of that a part at a time: a vocabulary of 150,000 tokens takes no more memory
than a small one. A checkpoint that is not in safetensors, or names its LM head as nobody would think, is loaded whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils.hub import cached_file

from model_worker.engine.forward.loader import check_source
from model_worker.tokenizer import load_tokenizer
from rstitch.service.head import NUM_TOP
from training.head.warm_start.states import States

MAX_BYTES = 2**28  # of a part of the LM head, and of the logits that are computed of it
_SAFE, _OTHERS = "model.safetensors", ("pytorch_model.bin", "pytorch_model.bin.index.json")

Rows = Callable[[int, int], Tensor]  # the rows of these tokens, from and to, float32


@dataclass(frozen=True, slots=True)
class LmHead:
    """Says where a model's LM head is.

    Attributes:
        slm: folder or hub id.
        num_tokens: that the tokenizer has; the rows behind are padding.
        file: of safetensors; None: it is not known where, and the model must be loaded.
        name: of the matrix in the file.
    """

    slm: str
    num_tokens: int
    file: str | None = None
    name: str = ""

    @classmethod
    def of(cls, slm: str) -> LmHead:
        """Finds it, by the hub if need be; reads no weights. Raises OSError, UnsupportedModel if there is none."""
        source = check_source(slm)
        num_tokens = load_tokenizer(source).vocab_size
        names, files = _names(source), _files(source)
        for name in names:
            if name in files:
                return cls(source, num_tokens, cached_file(source, files[name]), name)
        if not files and not any(_found(source, other) for other in _OTHERS):
            raise OSError(f"{slm}: there are no weights.")
        return cls(source, num_tokens)

    @contextmanager
    def opened(self) -> Iterator[Rows]:
        """Gives what reads rows while the block runs."""
        if self.file is None:
            weight: Any = AutoModelForCausalLM.from_pretrained(self.slm, dtype="auto").get_output_embeddings().weight
            yield lambda begin, end: weight[begin:end].float()
        else:
            with safe_open(self.file, "pt") as file:
                part = file.get_slice(self.name)
                yield lambda begin, end: part[begin:end].float()


@torch.inference_mode()
def readout_of(slm: str, states: States, num_tokens: int, max_bytes: int = MAX_BYTES) -> Tensor:
    """Gives the rows of the SLM's LM head for the tokens most often among its first four where it is unsure.

    Args:
        slm: folder or hub id.
        max_bytes: of each of the large matrices that are in memory.
    Returns: float32 [num_tokens, hidden_size].
    Raises: OSError, UnsupportedModel if there is no such model.
    """
    head = LmHead.of(slm)
    with head.opened() as rows:
        hidden = states.inputs[:, : rows(0, 1).shape[1]]
        most = _most_often(rows, head.num_tokens, hidden, max_bytes)[:num_tokens]
        return torch.cat([rows(token, token + 1) for token in most.tolist()])


def _most_often(rows: Rows, num_tokens: int, hidden: Tensor, max_bytes: int) -> Tensor:
    """All tokens, those first that are most often among the first four of a hidden state."""
    size = max(NUM_TOP, max_bytes // (4 * hidden.shape[1]))
    values = torch.full((len(hidden), NUM_TOP), -torch.inf)
    tokens = torch.zeros((len(hidden), NUM_TOP), dtype=torch.long)
    for begin, end in pairwise([*range(0, num_tokens, size), num_tokens]):
        weight = rows(begin, end)
        batch = max(1, max_bytes // (4 * len(weight)))
        for first in range(0, len(hidden), batch):
            part = slice(first, first + batch)
            top = (hidden[part] @ weight.T).topk(min(NUM_TOP, len(weight)))
            both = torch.cat([values[part], top.values], dim=1).topk(NUM_TOP)
            values[part] = both.values
            tokens[part] = torch.cat([tokens[part], top.indices + begin], dim=1).gather(1, both.indices)
    return torch.bincount(tokens.flatten(), minlength=num_tokens).argsort(descending=True, stable=True)


def _names(source: str) -> list[str]:
    """The names that the LM head's matrix may have in the files, the likeliest first."""
    config = AutoConfig.from_pretrained(source)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    named = dict(model.named_parameters(remove_duplicate=False))
    wanted = [model.get_output_embeddings().weight]
    if config.get_text_config().tie_word_embeddings:
        wanted.insert(0, model.get_input_embeddings().weight)
    return [name for weight in wanted for name, parameter in named.items() if parameter is weight]


def _files(source: str) -> dict[str, str]:
    """The file of each weight, by the weight's name; none if there are no safetensors."""
    if index := _found(source, f"{_SAFE}.index.json"):
        files: dict[str, str] = json.loads(Path(index).read_text())["weight_map"]
        return files
    if single := _found(source, _SAFE):
        with safe_open(single, "pt") as file:
            return dict.fromkeys(file.keys(), _SAFE)
    return {}


def _found(source: str, file: str) -> str | None:
    return cached_file(source, file, _raise_exceptions_for_missing_entries=False)
