"""Unsure states of reference chains: the fast source of a tiny pair's warm start, in one process and without an LLM.

The solutions that the tiny domains' generators write, in either model's style, go through the SLM. Where its entropy is
above the gate, the label is whether its most probable token is not the chain's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from evals.tasks.tiny.domains import DOMAINS
from rstitch.service.head_features import numbers
from training.head.recipe import LINES
from training.head.warm_start.states import States, kept, situations
from training.tiny.data import IGNORE, batches

# Lines of which a label says that the SLM errs, and nothing else. Of programs the LLM writes whole lines among the
# SLM's.
_USUAL = {"words": "slm", "programs": "mixed"}
BLOCK = 10_000  # chains that are kept in one file
_MAX_BLOCKS = 1_000
_BATCH_TOKENS = 4_096
_OTHER_CALLS = 0.3  # of the unsure tokens that are right, the share that the LLM is thought to have written


@dataclass(frozen=True, slots=True)
class Chains:
    """Says which reference chains.

    Attributes:
        slm: folder or hub id.
        domain: one of the tiny ones.
        tau: the gate: states with entropy above it.
        num_chains: at least so many, for a block ends with a batch.
        seed: of the problems; other seeds are other streams of the train split.
        features: names of `rstitch.service.head_features`.
        lines: whose they are, by names of `LINES`; "": as they stand in answers (`_USUAL`).
    """

    slm: str
    domain: str
    tau: float
    num_chains: int
    seed: int
    features: tuple[str, ...] = ()
    lines: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "lines", self.lines or _USUAL[self.domain])


def chain_states(
    chains: Chains, cache: Path | None = None, on_chains: Callable[[int], None] = lambda n: None
) -> States:
    """Makes the states, or reads them.

    Features are those of an answer whose every wrong token the LLM wrote, and three of ten of the other unsure ones; of
    its tokens the entropy is taken to be 0, for it hands back where it is sure.

    Args:
        cache: a folder that keeps them, block by block, for the next run; one that was stopped goes on.
        on_chains: told how many chains were done, now and then.
    """
    facts = {name: getattr(chains, name) for name in ("domain", "tau", "seed", "lines")}
    facts |= {"slm": Path(chains.slm).name, "features": list(chains.features)}
    blocks = []
    for number, first in enumerate(range(0, chains.num_chains, BLOCK)):
        size = min(BLOCK, chains.num_chains - first)
        made_of = facts | {"block": number, "size": size}
        make = partial(_block, chains, number, size)
        blocks.append(make() if cache is None else kept(cache / f"states-{number}.pt", made_of, make))
        on_chains(size)
    return States.joined(blocks)


@torch.inference_mode()
def _block(chains: Chains, number: int, size: int) -> States:
    """States of the first `size` chains of the block's own stream."""
    seed = _MAX_BLOCKS * chains.seed + number
    model = AutoModelForCausalLM.from_pretrained(chains.slm, dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(chains.slm)
    coins = Random(seed)
    parts: list[States] = []
    num_done = 0
    style, mixed = LINES[chains.lines]
    for batch in batches(DOMAINS[chains.domain], tokenizer, style, seed, _BATCH_TOKENS, mixed=mixed):
        written = batch.labels != IGNORE
        rows, columns = written.nonzero(as_tuple=True)
        hidden = model.base_model(input_ids=batch.ids).last_hidden_state[rows, columns]
        log_p = torch.log_softmax(model.lm_head(hidden)[:, : len(tokenizer)], dim=-1)
        entropy = -(log_p.exp() * log_p).sum(dim=-1) / math.log(len(tokenizer))
        wrong = log_p.argmax(dim=-1) != batch.labels[rows, columns]
        unsure = entropy > chains.tau
        lengths = (columns + 1).float()[:, None]
        # Between two answers of a chat stands a question; within one, the first token of the other style has no label.
        starts = torch.ones(len(rows), dtype=torch.bool)
        starts[1:] = (rows[1:] != rows[:-1]) | (columns[1:] - columns[:-1] > 2)
        of_answer = starts.cumsum(0) - 1
        given = [hidden[unsure], lengths[unsure]]
        if chains.features:
            given.append(_features(chains.features, entropy, wrong, unsure, of_answer, coins))
        parts.append(States(torch.cat(given, dim=1), wrong[unsure].float(), of_answer[unsure], int(starts.sum())))
        num_done += len(batch.ids)
        if num_done >= size:
            break
    return States.joined(parts)


def _features(
    names: Sequence[str], entropy: Tensor, wrong: Tensor, unsure: Tensor, of_answer: Tensor, coins: Random
) -> Tensor:
    """Gives the features [n, num_features] of the unsure places of some answers, one after the other."""
    found: list[list[float]] = []
    ends = np.flatnonzero(np.diff(of_answer.numpy())) + 1
    for entropies, is_wrong, is_unsure in zip(
        *(np.split(each, ends) for each in (entropy, wrong, unsure)), strict=True
    ):
        places = np.flatnonzero(is_unsure).tolist()
        by_llm = [False] * len(entropies)
        own = entropies.tolist()
        written = list(own)
        for place in places:
            if is_wrong[place] or coins.random() < _OTHER_CALLS:
                by_llm[place], written[place] = True, 0.0
        asked = [(place, own[place]) for place in places]
        found += [numbers(names, situation) for situation in situations(asked, written, by_llm)]
    return torch.tensor(found, dtype=torch.float32).reshape(len(found), -1)
