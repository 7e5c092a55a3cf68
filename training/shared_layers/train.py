"""Trains the tiny LLM on so that its first layers write as the SLM, over the tiny pair's own problems (train split).

Two losses on one forward. The first layers of a frozen LLM make a poor SLM: what it must say at once the LLM works out
in the layers above. So all layers move, held to what they did by the LLM's own loss. Muon for matrices, AdamW for the
rest, bfloat16 autocast, a moving average of the weights; one thread, fixed seeds.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from model_worker.engine.shared_layers.model import SlmTail
from training.shared_layers.data import Batch, batches
from training.tiny.data import IGNORE


@dataclass(frozen=True, slots=True)
class Recipe:
    """A run. `hard`: share of the additions and subtractions that carry through two digits."""

    num_layers: int = 2
    adapter_size: int = 512
    learning_rate: float = 1e-3  # the highest; `schedule` gives the share of it
    # (step, share), straight lines between; the last step ends the run. The knot at 462 is no art: from there the run
    # was made to end sooner than planned.
    schedule: tuple[tuple[int, float], ...] = ((-1, 0.0), (29, 1.0), (30, 1.0), (462, 0.439), (660, 0.0))
    weight_decay: float = 0.02
    batch_tokens: int = 4_096
    hard: float = 0.1
    slm_weight: float = 1.0
    average: float = 0.99
    seed: int = 44

    @property
    def num_steps(self) -> int:
        return self.schedule[-1][0]

    def rate(self, step: int) -> float:
        steps, shares = zip(*self.schedule, strict=True)
        return self.learning_rate * float(np.interp(step, steps, shares))


class Writers(nn.Module):
    """The LLM, and the SLM that is its first layers with a tail."""

    def __init__(self, llm: Any, recipe: Recipe) -> None:
        super().__init__()
        torch.manual_seed(recipe.seed)
        self.llm = llm
        self.tail = SlmTail(llm.config.hidden_size, recipe.adapter_size, llm.config.rms_norm_eps)
        self.num_layers = recipe.num_layers

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy of the LLM and of the SLM, each over the places that it learns from."""
        caught: list[Tensor] = []
        hook = self.llm.model.layers[self.num_layers].register_forward_pre_hook(lambda _, args: caught.append(args[0]))
        with torch.autocast("cpu", torch.bfloat16):
            hidden = self.llm.model(batch.ids, use_cache=False).last_hidden_state
            hook.remove()
            learned, short = batch.llm_labels != IGNORE, batch.slm_labels != IGNORE
            deep = self.llm.lm_head(hidden[learned])
            shallow = self.llm.lm_head(self.tail(caught[0][short]))
        return (
            nn.functional.cross_entropy(deep.float(), batch.llm_labels[learned]),
            nn.functional.cross_entropy(shallow.float(), batch.slm_labels[short]),
        )


def train(source: Path, recipe: Recipe) -> tuple[Any, SlmTail, dict[str, float]]:
    """Returns the model, the SLM's tail, and how the run ended: last losses, seconds of the CPU."""
    torch.set_num_threads(1)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(source))
    llm: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager")
    writers = Writers(llm, recipe)
    average = copy.deepcopy(writers)
    opts = _optimizers(writers, recipe)
    stream = batches(tokenizer, recipe.seed, recipe.batch_tokens, recipe.hard)
    shown = [0.0, 0.0]
    begin = time.process_time()
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *columns) as progress:
        bar = progress.add_task("training", total=recipe.num_steps)
        for step in range(recipe.num_steps):
            for opt in opts:
                for group in opt.param_groups:
                    group["lr"] = recipe.rate(step)
            deep, shallow = writers.losses(next(stream))
            (deep + recipe.slm_weight * shallow).backward()
            nn.utils.clip_grad_norm_(writers.parameters(), 1.0)
            for opt in opts:
                opt.step()
                opt.zero_grad()
            with torch.no_grad():
                decay = min(recipe.average, step / (step + 10))
                torch._foreach_lerp_(list(average.parameters()), list(writers.parameters()), 1.0 - decay)
            kept = 0.95 if step else 0.0
            shown = [kept * old + (1 - kept) * new.item() for old, new in zip(shown, (deep, shallow), strict=True)]
            told = f"LLM loss {shown[0]:.4f}, SLM loss {shown[1]:.4f}"
            progress.update(bar, advance=1, description=told)
            if (step + 1) % 50 == 0:
                progress.console.print(f"step {step + 1}: {told}, {time.process_time() - begin:.0f} s of the CPU")
    facts = {"llm_loss": shown[0], "slm_loss": shown[1], "cpu_seconds": time.process_time() - begin}
    return average.llm, average.tail, facts


def _optimizers(module: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """As for the tiny pair: Muon for the matrices of the layers, AdamW for the embedding and the norms."""
    matrices = [p for name, p in module.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in module.named_parameters() if p.ndim != 2 or "embed" in name]
    decay, rate = recipe.weight_decay, recipe.learning_rate
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=rate, weight_decay=0.0, betas=(0.9, 0.98), fused=True),
    ]
