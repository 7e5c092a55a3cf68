"""Models write answers and read each other's: all that a prediction needs of them, in this process, with transformers.

The one teacher-forced pass: each model reads both answers of a question, each in one forward. Greedy throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evals.pairs.walk import Reading
from model_worker.tokenizer import TokenizerFiles, load_tokenizer
from rstitch.errors import invalid

# A token is "in the way" of a model if it is among so many of its likeliest.
NUM_TOP = 5
_BATCH = 16


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model with the tokenizer of its folder."""

    name: str
    model: Any
    tokenizer: Any
    vocab_size: int
    stop_tokens: frozenset[int]

    @property
    def num_parameters(self) -> int:
        return int(self.model.num_parameters())


def compatible(llm: str, slms: Sequence[str]) -> dict[str, TokenizerFiles]:
    """The tokenizers of all, by name. Raises: RstitchError, naming the candidate that has another tokenizer."""
    files = {name: load_tokenizer(name) for name in (llm, *slms)}
    for slm in slms:
        ours, theirs = files[slm], files[llm]
        if ours.fingerprint != theirs.fingerprint:
            problem = (
                f"{slm} has another tokenizer than {llm} ({ours.vocab_size} entries beside {theirs.vocab_size})."
                if ours.vocab_size != theirs.vocab_size
                else f"{slm} gives other ids to the same tokens than {llm}."
            )
            raise invalid("--slm", problem, "A pair must share one tokenizer: leave it out.")
    return files


def load(name: str, vocab_size: int, device: str, dtype: torch.dtype) -> Loaded:
    """A folder or hub id, ready to read."""
    model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype).to(device).eval()  # type: ignore[arg-type]
    tokenizer = AutoTokenizer.from_pretrained(name)
    ends = model.generation_config.eos_token_id
    stop_tokens = frozenset(ends if isinstance(ends, list) else [ends if ends is not None else tokenizer.eos_token_id])
    return Loaded(name, model, tokenizer, vocab_size, stop_tokens)


def prompt_of(loaded: Loaded, question: str) -> list[int]:
    """The question in the model's chat template."""
    chat = [{"role": "user", "content": question}]
    return list(loaded.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False))


@torch.inference_mode()
def answers(
    loaded: Loaded, prompts: Sequence[list[int]], max_new_tokens: int, on_done: Callable[[int], None]
) -> list[list[int]]:
    """Writes greedy answers, the stop token included."""
    pad = loaded.tokenizer.pad_token_id
    pad = pad if pad is not None else min(loaded.stop_tokens)
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
            eos_token_id=sorted(loaded.stop_tokens),
            pad_token_id=pad,
        )
        written += [_up_to_stop(row, loaded.stop_tokens) for row in out[:, length:].tolist()]
        on_done(len(group))
    return written


@torch.inference_mode()
def read(loaded: Loaded, prompt: list[int], answer: Sequence[int]) -> Reading:
    """One teacher-forced forward over a prompt and an answer."""
    ids = torch.tensor([[*prompt, *answer]], device=loaded.model.device)
    keep = len(answer) + 1
    logits = loaded.model(ids, use_cache=False, logits_to_keep=keep).logits[0, :-1, : loaded.vocab_size].float()
    probabilities = torch.softmax(logits, -1)
    entropy = torch.special.entr(probabilities).sum(-1) / math.log(loaded.vocab_size)
    at = torch.arange(len(answer), device=logits.device)
    return Reading(
        entropy=entropy.clamp(0, 1).cpu().numpy(),
        top=logits.topk(min(NUM_TOP, loaded.vocab_size), dim=-1).indices.cpu().numpy(),
        probability=probabilities[at, ids[0, len(prompt) :]].cpu().numpy().astype(np.float32),
    )


def _up_to_stop(tokens: list[int], stops: frozenset[int]) -> list[int]:
    ends = [index for index, token in enumerate(tokens) if token in stops]
    return tokens[: ends[0] + 1] if ends else tokens
