"""The pair to train for: both models as engines in this process, prompts as the service makes them, answers as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerFast

from evals.tasks.tiny.arithmetic import Problem, is_correct
from model_worker.engine.engine import Engine
from model_worker.engine.forward.loader import load
from model_worker.engine.forward.memory import pages_that_fit
from model_worker.engine.types import Limits
from model_worker.tokenizer import load_tokenizer
from training.tiny.evaluate import prompt_ids

_CACHE_BYTES = 256 << 20  # of each engine


@dataclass(frozen=True, slots=True)
class TrainingPair:
    """Both engines and what they share. Made by `open_pair`."""

    slm: Engine
    llm: Engine
    tokenizer: PreTrainedTokenizerFast
    stop_tokens: frozenset[int]
    fingerprint: str
    hidden_size: int
    names: tuple[str, str]

    def prompt(self, problem: Problem) -> list[int]:
        return prompt_ids(self.tokenizer, problem)

    def is_right(self, tokens: Sequence[int], problem: Problem) -> bool:
        return is_correct(str(self.tokenizer.decode(list(tokens))), problem)


def open_pair(slm: str, llm: str, dtype: torch.dtype = torch.float32) -> TrainingPair:
    """Loads two folders or hub ids, on the CPU. Raises UnsupportedModel; ValueError if the tokenizers differ."""
    files = {name: load_tokenizer(name) for name in (slm, llm)}
    if files[slm].fingerprint != files[llm].fingerprint:
        raise ValueError(f"{slm} and {llm} do not share one tokenizer")
    vocab_size = files[slm].vocab_size
    loaded = {name: load(name, dtype, torch.device("cpu")) for name in (slm, llm)}
    engines = {}
    for name, model in loaded.items():
        limits = Limits(vocab_size, model.context_length, pages_that_fit(model, 16, cpu_bytes=_CACHE_BYTES))
        engines[name] = Engine(model, limits)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(slm)
    stop = loaded[slm].stop_tokens | loaded[llm].stop_tokens
    return TrainingPair(
        engines[slm], engines[llm], tokenizer, stop, files[slm].fingerprint, loaded[slm].hidden_size, (slm, llm)
    )
