"""Trains one tiny model: `python -m training.tiny.train slm|llm --out FOLDER [--steps N] [--resume]`.

One thread and fixed seeds: the same machine makes the same weights. Muon moves the matrices and AdamW the rest;
bfloat16 autocast, float32 weights. The checkpoint holds all that a resumed run needs. Knows nothing of how the models
are joined.
"""

from __future__ import annotations

import copy
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from evals.asking.values import one_of
from evals.figures.progress import progress_bar
from evals.tasks.tiny.domains import DOMAINS
from rstitch.local.part import ROOT
from training.commands import run
from training.tiny.data import IGNORE, Batch, batches
from training.tiny.recipe import RECIPES, Recipe
from training.tiny.tokenizer import train_tokenizer

CHECKPOINT = "checkpoint.pt"
MODELS = ROOT / "models"


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The model with its first, random weights."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        **recipe.model_config(len(tokenizer)),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # On a CPU and at these lengths plain attention is twice as fast as the fused one.
    model: LlamaForCausalLM = LlamaForCausalLM._from_config(config, attn_implementation="eager")
    return model


def begin_with(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Take a finished model's weights, of the same shape; of its embedding the tokens that both vocabularies have."""
    given = LlamaForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    rows = PreTrainedTokenizerFast.from_pretrained(str(folder)).get_vocab()
    shared = [(new, rows[token]) for token, new in tokenizer.get_vocab().items() if token in rows]
    embedding = model.model.embed_tokens.weight.detach().clone()
    to, source = (torch.tensor(places) for places in zip(*shared, strict=True))
    embedding[to] = given.model.embed_tokens.weight.detach()[source]
    model.load_state_dict(given.state_dict() | {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding})


def optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embedding and the norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(
            matrices, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(rest, lr=recipe.learning_rate, weight_decay=0.0, betas=(0.9, 0.98), fused=True),
    ]


def loss_of(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy over the places that carry loss; only these reach the vocabulary."""
    learned = batch.labels != IGNORE
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(batch.ids, use_cache=False).last_hidden_state[learned]
        logits = model.lm_head(hidden)
    return nn.functional.cross_entropy(logits.float(), batch.labels[learned])


def train(recipe: Recipe, out: Path, num_steps: int | None = None, resume: bool = False) -> Path:
    """Train, and return the checkpoint's path. A run can be stopped at any time and resumed."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    torch.set_num_threads(1)
    num_steps = min(num_steps or recipe.num_steps, recipe.num_steps)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(DOMAINS[recipe.domain])
    model = new_model(recipe, tokenizer)
    resumes = resume and (out / CHECKPOINT).exists()
    if recipe.begin is not None and not resumes:
        begin_with(model, tokenizer, MODELS / recipe.begin)
    average = copy.deepcopy(model)
    opts = optimizers(model, recipe)
    first, seconds = 0, 0.0
    if resumes:
        state = torch.load(out / CHECKPOINT, weights_only=True)
        first, seconds = state["step"], state["seconds"]
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        for opt, saved in zip(opts, state["optimizers"], strict=True):
            opt.load_state_dict(saved)
    source = _source(tokenizer, recipe, first)
    started, shown = time.perf_counter(), 0.0
    with progress_bar(Console()) as progress:
        bar = progress.add_task(recipe.name, total=num_steps, completed=first)
        for step in range(first, num_steps):
            if step == recipe.practice_from:
                source = _source(tokenizer, recipe, step)
            for opt in opts:
                for group in opt.param_groups:
                    group["lr"] = recipe.rate(step)
            loss = loss_of(model, next(source))
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for opt in opts:
                opt.step()
                opt.zero_grad()
            _follow(average, model, min(recipe.average, step / (step + 10)))
            shown = loss.item() if step == first else 0.95 * shown + 0.05 * loss.item()
            progress.update(bar, advance=1, description=f"{recipe.name} loss {shown:.4f}")
            if (step + 1) % 100 == 0 or step + 1 == num_steps:
                spent = seconds + time.perf_counter() - started
                progress.console.print(f"{recipe.name} step {step + 1} loss {shown:.4f} {spent:.0f}s")
                state = {
                    "recipe": asdict(recipe),
                    "step": step + 1,
                    "seconds": spent,
                    "loss": shown,
                    "model": model.state_dict(),
                    "average": average.state_dict(),
                    "optimizers": [opt.state_dict() for opt in opts],
                }
                # Beside the old checkpoint, then in its place: a run killed while saving loses nothing.
                torch.save(state, out / f"{CHECKPOINT}.new")
                (out / f"{CHECKPOINT}.new").replace(out / CHECKPOINT)
    return out / CHECKPOINT


def _source(tokenizer: PreTrainedTokenizerFast, recipe: Recipe, step: int) -> Iterator[Batch]:
    """The batches from a step on; the practice is a stream of its own."""
    seed, hard = recipe.seed, 0.0
    if recipe.practice_from is not None and step >= recipe.practice_from:
        seed, hard, step = seed + 1_000, recipe.practice_hard, step - recipe.practice_from
    domain = DOMAINS[recipe.domain]
    return batches(domain, tokenizer, recipe.own, seed, recipe.batch_tokens, step, hard, recipe.mixed)


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1.0 - decay)


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains one model, from its checkpoint on if there is one; returns the exit code."""
    return run(_train, "python -m training.tiny.train", __doc__, arguments)


def _train(
    name: Annotated[str, typer.Argument(parser=one_of(RECIPES), metavar="NAME", help=f"Of {', '.join(RECIPES)}.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint.")],
    steps: Annotated[int | None, typer.Option(help="Stop after so many; the schedule stays the recipe's.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")] = False,
) -> None:
    train(RECIPES[name], out, steps, resume)


if __name__ == "__main__":
    sys.exit(main())
