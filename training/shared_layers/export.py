"""Puts the pair with shared layers into a folder, and measures it for its card. It trains nothing."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from evals.tasks.tiny.words import WORDS
from model_worker.engine.shared_layers.model import CONFIG, SlmTail, load_shared, save_shared
from training.shared_layers.card import card
from training.shared_layers.train import Recipe
from training.tiny.evaluate import Exam

_TOKENIZER = (
    "chat_template.jinja",
    "early_exit.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


def export(source: Path, out: Path, recipe: Recipe, llm: Any, tail: SlmTail, facts: dict[str, float]) -> None:
    """Writes the folder: bfloat16 weights, the source's tokenizer, how it was trained."""
    llm.bfloat16().save_pretrained(out)
    save_shared(out, recipe.num_layers, tail.bfloat16(), training={**asdict(recipe), **facts})
    for name in _TOKENIZER:
        shutil.copy(source / name, out / name)
    for path in out.iterdir():
        path.chmod(0o644)  # safetensors writes for its owner alone; a container runs as somebody else


def measure(folder: Path, n: int, taus: tuple[float, ...]) -> list[dict[str, Any]]:
    """Measures both writers alone and stitched, on dev, greedy, float32; writes the card."""
    llm: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    shared = load_shared(str(folder), llm)
    shared.slm.generation_config = llm.generation_config
    exam = Exam(WORDS, PreTrainedTokenizerFast.from_pretrained(str(folder)), WORDS.generator.problems("dev", n))
    tallies = [exam.alone("slm_only", shared.slm), exam.alone("llm_only", llm)]
    tallies += [exam.stitched(shared.slm, llm, tau) for tau in taus]
    figures = [tally.figures() for tally in tallies]
    sizes = {
        "total_layers": llm.config.num_hidden_layers,
        "parameters": sum(parameter.numel() for parameter in llm.parameters()),
        "slm_parameters": sum(parameter.numel() for parameter in shared.tail.parameters()),
    }
    recipe = json.loads((folder / CONFIG).read_text())["training"]
    command = "python -m training.shared_layers --measure-only"
    note = f"The first {n} problems of the dev split, greedy, float32, by `{command}`."
    (folder / "README.md").write_text(card(recipe, sizes, figures, note))
    return figures
