"""The training stream of a tiny model: conversations as token ids and labels, in batches of similar length.

The stream is a function of (domain, style, seed, batch number): a resumed run sees what an unbroken one would have
seen. Knows nothing of models or optimizers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerFast

from evals.tasks.tiny.domain import Domain, Style
from evals.tasks.tiny.splits import P
from training.tiny.chains import Piece, chain
from training.tiny.tokenizer import SYSTEM_PROMPTS

IGNORE = -100
_POOL = 2_048  # conversations sorted by length before they are cut into batches
_P_SYSTEM = 0.1
_P_SECOND_TURN = 0.05


@dataclass(frozen=True, slots=True)
class Segment:
    """Text of one conversation, tokenized by itself. `learned` from its token number `first_learned` on."""

    text: str
    learned: bool
    foreign: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded ids and the label of the *next* token at each place (`IGNORE` where there is no loss)."""

    ids: torch.Tensor
    labels: torch.Tensor


def answer_segments(pieces: list[Piece]) -> list[Segment]:
    """All of the assistant's turn is learned, but for the first token of a foreign line."""
    return [*(Segment(p.text, True, p.foreign) for p in pieces), Segment("<|end|>", True)]


def conversation(
    domain: Domain[P], problem: P, own: Style, rng: random.Random, earlier: P | None = None, mixed: bool = True
) -> list[Segment]:
    """A chat of one question (or a second one after an earlier one), answered in a mixture of styles."""
    opening = "<|begin|>"
    if rng.random() < _P_SYSTEM:
        opening += f"<|system|>{rng.choice(SYSTEM_PROMPTS)}<|end|>"
    segments = [Segment(opening, False)]
    for turn in (earlier, problem):
        if turn is not None:
            segments.append(Segment(f"<|user|>{turn.question}<|end|><|assistant|>", False))
            segments += answer_segments(chain(domain, turn, own, rng if mixed else None))
    return segments


def encode(tokenizer: PreTrainedTokenizerFast, chats: list[list[Segment]]) -> list[tuple[list[int], list[int]]]:
    """Ids and, at each place, the label for that very id (not yet shifted)."""
    flat = [segment for chat in chats for segment in chat]
    encoded = iter(tokenizer.backend_tokenizer.encode_batch_fast([s.text for s in flat], add_special_tokens=False))
    rows = []
    for chat in chats:
        ids: list[int] = []
        labels: list[int] = []
        for segment in chat:
            new = next(encoded).ids
            ids += new
            labels += new if segment.learned else [IGNORE] * len(new)
            if segment.foreign:
                labels[-len(new)] = IGNORE
        rows.append((ids, labels))
    return rows


def batches(
    domain: Domain[P],
    tokenizer: PreTrainedTokenizerFast,
    own: Style,
    seed: int,
    batch_tokens: int,
    first: int = 0,
    hard: float = 0.0,
    mixed: bool = True,
) -> Iterator[Batch]:
    """Batches without end, from number `first` on, each of about `batch_tokens` places; `hard` as in `task`."""
    rng = random.Random(seed)
    source = domain.generator.stream("train", seed, hard)
    number = 0
    while True:
        chats = []
        for _ in range(_POOL):
            earlier = next(source) if rng.random() < _P_SECOND_TURN else None
            chats.append(conversation(domain, next(source), own, rng, earlier, mixed))
        rows = sorted(encode(tokenizer, chats), key=lambda row: len(row[0]))
        groups: list[list[tuple[list[int], list[int]]]] = [[]]
        for row in rows:
            if groups[-1] and (len(groups[-1]) + 1) * len(row[0]) > batch_tokens:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        for group in groups:
            if number >= first:
                yield _pad(group, tokenizer.pad_token_id)
            number += 1


def _pad(group: list[tuple[list[int], list[int]]], pad: int) -> Batch:
    length = -(-max(len(ids) for ids, _ in group) // 8) * 8
    ids = torch.tensor([row + [pad] * (length - len(row)) for row, _ in group])
    labels = torch.tensor([row[1:] + [IGNORE] * (length - len(row) + 1) for _, row in group])
    return Batch(ids, labels)
