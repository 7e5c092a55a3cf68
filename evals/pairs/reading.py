"""Models write answers and read each other's: all that a prediction needs of them, in this process, with transformers.

The one teacher-forced pass: each model reads both answers of a question, each in one forward. Greedy throughout. Each
model has its own ids here; whoever compares two of them maps those.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evals.pairs.walk import Reading
from router_svc.text.matching import Vocabulary
from router_svc.text.vocabularies import Vocabularies
from router_svc.trajectory.types import Model

# A token is "in the way" of a model if it is among so many of its likeliest.
NUM_TOP = 5
_BATCH = 16


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model with the tokenizer of its folder.

    Attributes:
        vocab_size: ids below it are tokens.
        ends: tokens that end an answer.
        masked: tokens that it may not write, as the other model of its pair has none like them.
    """

    name: str
    model: Any
    tokenizer: Any
    vocab_size: int
    ends: frozenset[int]
    masked: tuple[int, ...] = ()

    @property
    def num_parameters(self) -> int:
        return int(self.model.num_parameters())

    def logits(self, raw: torch.Tensor) -> torch.Tensor:
        """Logits [..., vocab_size], float32, of a model's [..., rows]: those of masked tokens are -inf."""
        logits = raw[..., : self.vocab_size].float()
        if self.masked:
            logits[..., list(self.masked)] = -math.inf
        return logits


def load(name: str, vocabulary: Vocabulary, device: str, dtype: torch.dtype) -> Loaded:
    """A folder or hub id, ready to read."""
    model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype).to(device).eval()  # type: ignore[arg-type]
    return Loaded(name, model, AutoTokenizer.from_pretrained(name), vocabulary.size, vocabulary.stop_tokens)


def of_pair(slm: Loaded, llm: Loaded, vocabularies: Vocabularies) -> tuple[Loaded, Loaded]:
    """Both models as they are in the pair: with what is masked there, and what ends an answer there."""
    ends, masked = vocabularies.stop_tokens[Model.LLM], vocabularies.matching.masked
    return (
        replace(slm, ends=vocabularies.ends_of_slm(ends), masked=masked[Model.SLM]),
        replace(llm, ends=ends, masked=masked[Model.LLM]),
    )


def prompt_of(loaded: Loaded, question: str, other: Loaded | None = None) -> list[int]:
    """The question in the model's own chat template; in that of the `other` model if it has none."""
    chat = [{"role": "user", "content": question}]
    template = loaded.tokenizer.chat_template or (other.tokenizer.chat_template if other is not None else None)
    return list(
        loaded.tokenizer.apply_chat_template(
            chat, chat_template=template, add_generation_prompt=True, return_dict=False
        )
    )


@torch.inference_mode()
def answers(
    loaded: Loaded, prompts: Sequence[list[int]], max_new_tokens: int, on_done: Callable[[int], None]
) -> list[list[int]]:
    """Writes greedy answers, the token that ends each included."""
    pad = loaded.tokenizer.pad_token_id
    pad = pad if pad is not None else min(loaded.ends, default=0)
    rows = loaded.model.get_output_embeddings().weight.shape[0]
    never = [*loaded.masked, *range(loaded.vocab_size, rows)]
    written: list[list[int]] = []
    for start in range(0, len(prompts), _BATCH):
        group = prompts[start : start + _BATCH]
        length = max(map(len, group))
        ids = torch.tensor([[pad] * (length - len(row)) + row for row in group], device=loaded.model.device)
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in group], device=loaded.model.device)
        out = loaded.model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=sorted(loaded.ends) or None,
            pad_token_id=pad,
            suppress_tokens=never or None,
        )
        written += [_up_to_end(row, loaded.ends) for row in out[:, length:].tolist()]
        on_done(len(group))
    return written


@torch.inference_mode()
def read(loaded: Loaded, prompt: list[int], answer: Sequence[int]) -> Reading:
    """One teacher-forced forward over a prompt and an answer; all in the model's own ids."""
    ids = torch.tensor([[*prompt, *answer]], device=loaded.model.device)
    keep = len(answer) + 1
    logits = loaded.logits(loaded.model(ids, use_cache=False, logits_to_keep=keep).logits[0, :-1])
    probabilities = torch.softmax(logits, -1)
    entropy = torch.special.entr(probabilities).sum(-1) / math.log(loaded.vocab_size - len(loaded.masked))
    at = torch.arange(len(answer), device=logits.device)
    return Reading(
        entropy=entropy.clamp(0, 1).cpu().numpy(),
        top=logits.topk(min(NUM_TOP, loaded.vocab_size - len(loaded.masked)), dim=-1).indices.cpu().numpy(),
        probability=probabilities[at, ids[0, len(prompt) :]].cpu().numpy().astype(np.float32),
    )


def _up_to_end(tokens: list[int], ends: frozenset[int]) -> list[int]:
    found = [index for index, token in enumerate(tokens) if token in ends]
    return tokens[: found[0] + 1] if found else tokens
