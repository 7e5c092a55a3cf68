"""The training stream of a model with shared layers: one batch of chats, and what each of the two writers learns of it.

Every chat mixes lines of both styles, as the tiny pair's do. The LLM learns to begin verbose lines and the SLM to
begin short ones; both learn to go on with either. So one forward serves both losses. The stream is a function of the
seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerFast

from evals.tasks.tiny.arithmetic import Problem
from evals.tasks.tiny.domain import Style
from evals.tasks.tiny.words import WORDS
from training.tiny.chains import chain
from training.tiny.data import IGNORE
from training.tiny.tokenizer import SYSTEM_PROMPTS

_POOL = 1_024  # chats sorted by length before they are cut into batches
_P_SYSTEM = 0.1
# Ids, and at each place the label for that very id: of the LLM, of the SLM.
Chat = tuple[list[int], list[int], list[int]]


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded ids, and for each writer the label of the *next* token at each place (`IGNORE`: no loss)."""

    ids: torch.Tensor
    llm_labels: torch.Tensor
    slm_labels: torch.Tensor


def batches(tokenizer: PreTrainedTokenizerFast, seed: int, batch_tokens: int, hard: float = 0.0) -> Iterator[Batch]:
    """Batches without end, each of about `batch_tokens` places; `hard` as in `Generator.stream`."""
    rng = random.Random(seed)
    source = WORDS.generator.stream("train", seed, hard)
    while True:
        rows = sorted((encode(tokenizer, next(source), rng) for _ in range(_POOL)), key=lambda row: len(row[0]))
        groups: list[list[Chat]] = [[]]
        for row in rows:
            if groups[-1] and (len(groups[-1]) + 1) * len(row[0]) > batch_tokens:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        for group in groups:
            yield _pad(group, tokenizer.pad_token_id)


def encode(tokenizer: PreTrainedTokenizerFast, problem: Problem, rng: random.Random) -> Chat:
    """One chat; its lines are mixed as for the LLM or, as often, as for the SLM."""
    styles: tuple[Style, Style] = ("short", "verbose")
    own = rng.choice(styles)
    opening = "<|begin|>"
    if rng.random() < _P_SYSTEM:
        opening += f"<|system|>{rng.choice(SYSTEM_PROMPTS)}<|end|>"
    pieces = chain(WORDS, problem, own, rng)
    # The first piece opens the thinking and the last one closes it: both writers learn these.
    short = [None, *(piece.foreign == (own == "verbose") for piece in pieces[1:-1]), None, None]
    texts = [f"{opening}<|user|>{problem.question}<|end|><|assistant|>", *(piece.text for piece in pieces), "<|end|>"]
    encoded = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    ids: list[int] = list(encoded[0].ids)
    llm, slm = [IGNORE] * len(ids), [IGNORE] * len(ids)
    for piece, is_short in zip(encoded[1:], short, strict=True):
        for labels, begins_short in ((llm, False), (slm, True)):
            own_line = is_short is None or is_short == begins_short
            labels += piece.ids if own_line else [IGNORE, *piece.ids[1:]]
        ids += piece.ids
    return ids, llm, slm


def _pad(group: list[Chat], pad: int) -> Batch:
    length = -(-max(len(ids) for ids, _, _ in group) // 8) * 8

    def stacked(rows: list[list[int]], fill: int) -> torch.Tensor:
        return torch.tensor([row + [fill] * (length - len(row)) for row in rows])

    ids, llm, slm = zip(*group, strict=True)
    # The label of a place is the id that comes after it.
    return Batch(
        stacked(list(ids), pad), stacked([row[1:] for row in llm], IGNORE), stacked([row[1:] for row in slm], IGNORE)
    )
