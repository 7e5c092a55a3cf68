"""A supervised start for the head (ours, not the paper's): dense labels that cost no rollout.

Reference chains of the train split are put through the SLM. Where its entropy is above tau the label is whether its
most probable token is not the reference's. That is what the head must know first; what a wrong token costs in the end,
and what a call of the LLM does, it learns from rewards (`train`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from evals.tasks.tiny.domains import DOMAINS
from rstitch.service.head import NUM_TOP
from training.head.mlp import Policy
from training.tiny.data import IGNORE, batches

_BATCH_TOKENS = 4_096
_BATCH_STATES = 512
_WEIGHT_DECAY = 1.0
_WARM_UP = 100


@dataclass(frozen=True, slots=True)
class States:
    """Unsure states of the SLM: inputs of the head [n, hidden_size + 1], and whether the SLM's token is wrong [n]."""

    inputs: Tensor
    wrong: Tensor


@torch.inference_mode()
def unsure_states(
    slm: str, tau: float, num_chains: int, seed: int, cache: Path, on_chains: Callable[[int], None] = lambda n: None
) -> States:
    """Of reference chains in the SLM's style.

    Args:
        cache: a file that keeps them for the next run with the same arguments.
        on_chains: told how many chains were done, now and then.
    """
    made_of = {"slm": slm, "tau": tau, "num_chains": num_chains, "seed": seed}
    if cache.exists() and (kept := torch.load(cache, weights_only=True))["made_of"] == made_of:
        on_chains(num_chains)
        return States(kept["inputs"], kept["wrong"])
    model = AutoModelForCausalLM.from_pretrained(slm, dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(slm)
    inputs: list[Tensor] = []
    wrong: list[Tensor] = []
    num_done = 0
    for batch in batches(DOMAINS["words"], tokenizer, "short", seed, _BATCH_TOKENS, mixed=False):
        rows, columns = (batch.labels != IGNORE).nonzero(as_tuple=True)
        hidden = model.base_model(input_ids=batch.ids).last_hidden_state[rows, columns]
        log_p = torch.log_softmax(model.lm_head(hidden)[:, : len(tokenizer)], dim=-1)
        unsure = -(log_p.exp() * log_p).sum(dim=-1) / math.log(len(tokenizer)) > tau
        lengths = (columns + 1).float()[:, None]
        inputs.append(torch.cat([hidden, lengths], dim=1)[unsure])
        wrong.append((log_p.argmax(dim=-1) != batch.labels[rows, columns])[unsure].float())
        num_done += len(batch.ids)
        on_chains(len(batch.ids))
        if num_done >= num_chains:
            break
    states = States(torch.cat(inputs), torch.cat(wrong))
    cache.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"made_of": made_of, "inputs": states.inputs, "wrong": states.wrong}, cache)
    return states


@torch.inference_mode()
def readout_of(slm: str, states: States, num_tokens: int) -> Tensor:
    """Rows of the SLM's LM head for the tokens that are most often among its first four where it is unsure."""
    model = AutoModelForCausalLM.from_pretrained(slm, dtype=torch.float32)
    weight: Tensor = model.get_output_embeddings().weight
    counts = torch.zeros(len(weight), dtype=torch.long)
    for part in states.inputs[:, :-1].split(_BATCH_TOKENS):
        counts += torch.bincount((part @ weight.T).topk(NUM_TOP).indices.flatten(), minlength=len(weight))
    most = counts.argsort(descending=True)[:num_tokens]
    return torch.index_select(weight, 0, most)


def fit(policy: Policy, states: States, epochs: int, lr: float, seed: int, on_epoch: Callable[[float], None]) -> None:
    """Trains the difference of the logits to be that of P(wrong).

    Args:
        on_epoch: told the mean loss of each pass.
    """
    order = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=lr, weight_decay=_WEIGHT_DECAY)
    num_batches = max(1, len(states.wrong) // _BATCH_STATES)
    num_steps, step = epochs * num_batches, 0
    for _ in range(epochs):
        losses = []
        for chosen in np.array_split(order.permutation(len(states.wrong)), num_batches):
            step += 1
            optimizer.param_groups[0]["lr"] = lr * min(1, step / _WARM_UP) * (1 - step / num_steps)
            log_p = policy(states.inputs[chosen])
            loss = binary_cross_entropy_with_logits(log_p[:, 1] - log_p[:, 0], states.wrong[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        on_epoch(float(np.mean(losses)))


def lean(policy: Policy, error: float) -> None:
    """Moves the decision from P(wrong) > 1/2 to P(wrong) > `error`."""
    bias = policy.layers[-1].bias
    assert isinstance(bias, Tensor)
    with torch.no_grad():
        bias[1] += math.log((1 - error) / error)
