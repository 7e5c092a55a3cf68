"""The pair as two engines in this process, with prompts and answers as the service makes them. It asks nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from evals.asking.systems import Terms
from model_worker.engine.engine import Engine
from model_worker.engine.forward.loader import load
from model_worker.engine.forward.memory import pages_that_fit
from model_worker.engine.types import Limits
from model_worker.tokenizer import load_tokenizer
from rstitch.errors import invalid

_CACHE_BYTES = 256 << 20  # of each engine


@dataclass(frozen=True, slots=True)
class Engines:
    """Both engines and what they share. Made by `open_engines`."""

    slm: Engine
    llm: Engine
    tokenizer: PreTrainedTokenizerFast
    stop_tokens: frozenset[int]
    fingerprint: str
    hidden_size: int
    names: tuple[str, str]

    def prompt(self, prompt: str, terms: Terms) -> list[int]:
        """Gives a question's tokens, as the router makes them."""
        if terms.input == "text":
            return list(self.tokenizer.encode(prompt))
        chat = [{"role": "user", "content": prompt}]
        if terms.message:
            chat.insert(0, {"role": "system", "content": terms.message})
        text = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def text(self, tokens: Sequence[int]) -> str:
        """Gives an answer's text, without special tokens."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))


def open_engines(slm: str, llm: str, dtype: torch.dtype = torch.float32, *, batch_invariant: bool = False) -> Engines:
    """Loads two folders or hub ids, on the CPU.

    Args:
        batch_invariant: a hidden state has the same bits alone and among others, as with workers that are started so.

    Raises: UnsupportedModel; RstitchError if the tokenizers differ.
    """
    files = {name: load_tokenizer(name) for name in (slm, llm)}
    if files[slm].fingerprint != files[llm].fingerprint:
        raise invalid(
            "--in-process",
            f"{slm} and {llm} do not share one tokenizer.",
            "Leave it out: the service puts them together.",
        )
    vocab_size = files[slm].vocab_size
    loaded = {name: load(name, dtype, torch.device("cpu")) for name in (slm, llm)}
    engines = {}
    for name, model in loaded.items():
        num_pages = pages_that_fit(model, 16, cpu_bytes=_CACHE_BYTES)
        engines[name] = Engine(
            model, Limits(vocab_size, model.context_length, num_pages, batch_invariant=batch_invariant)
        )
    return Engines(
        engines[slm],
        engines[llm],
        PreTrainedTokenizerFast.from_pretrained(slm),
        loaded[slm].stop_tokens | loaded[llm].stop_tokens,
        files[slm].fingerprint,
        loaded[slm].hidden_size,
        (Path(slm).name, Path(llm).name),
    )
