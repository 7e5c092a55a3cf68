"""A quick look at a tiny pair in one process: `python -m training.tiny.evaluate SLM LLM [--domain words] [--n 500]`.

It exists for choosing checkpoints. The figures of record come from the service; this stitcher serves one problem at a
time and only agrees with Algorithm 1. SLM and LLM are exported folders or checkpoints of training.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Generic

import torch
import typer
from rich.progress import track
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from evals.algorithm.cached_model import CachedModel
from evals.algorithm.reference import Threshold, stitch
from evals.asking.values import choice
from evals.figures.statistics import wilson
from evals.tasks.tiny.domain import Domain
from evals.tasks.tiny.domains import DOMAINS
from evals.tasks.tiny.splits import AnyProblem, P
from training.commands import SEVERAL, run
from training.tiny.recipe import RECIPES
from training.tiny.tokenizer import train_tokenizer
from training.tiny.train import new_model

TAUS = (0.005, 0.02, 0.05)
_SPLITS = ("dev", "calibration", "test")


@dataclass(slots=True)
class Tally:
    """What one way of decoding did on a set of problems."""

    name: str
    right: list[bool] = field(default_factory=list)
    tokens: int = 0
    llm_tokens: int = 0
    switches: int = 0
    seconds: float = 0.0

    def figures(self) -> dict[str, float | int | str]:
        """Accuracy with its interval, and means over the problems."""
        n, k = len(self.right), sum(self.right)
        low, high = wilson(k, n)
        return {
            "decoding": self.name,
            "n": n,
            "accuracy": round(100 * k / n, 1),
            "low": round(100 * low, 1),
            "high": round(100 * high, 1),
            "tokens": round(self.tokens / n, 1),
            "llm_share": round(100 * self.llm_tokens / max(1, self.tokens), 1),
            "switches": round(self.switches / n, 2),
            "ms": round(1000 * self.seconds / n, 1),
        }


def load(path: Path) -> PreTrainedModel:
    """A model from an exported folder, or the averaged weights of a training checkpoint."""
    model: PreTrainedModel
    if path.is_dir():
        model = AutoModelForCausalLM.from_pretrained(str(path), dtype=torch.float32)
    else:
        state = torch.load(path, weights_only=True)
        recipe = RECIPES[state["recipe"]["name"]]
        model = new_model(recipe, train_tokenizer(DOMAINS[recipe.domain]))
        model.load_state_dict(state["average"])
    model.eval()  # type: ignore[no-untyped-call]
    return model


def prompt_ids(tokenizer: PreTrainedTokenizerFast, problem: AnyProblem) -> list[int]:
    """The question as the chat template puts it."""
    chat = [{"role": "user", "content": problem.question}]
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer.encode(prompt, add_special_tokens=False)
    return ids


@dataclass(frozen=True, slots=True)
class Exam(Generic[P]):
    """What is asked of whom: problems of a domain in a tokenizer."""

    domain: Domain[P]
    tokenizer: PreTrainedTokenizerFast
    asked: list[P]

    def is_right(self, answer: list[int], problem: P) -> bool:
        return self.domain.is_correct(str(self.tokenizer.decode(answer)), problem)

    @torch.no_grad()
    def alone(self, name: str, model: PreTrainedModel, batch: int = 50) -> Tally:
        """One model by itself, greedy, left-padded batches."""
        tally = Tally(name)
        pad = self.tokenizer.pad_token_id
        started = time.perf_counter()
        for start in track(range(0, len(self.asked), batch), description=name):
            group = self.asked[start : start + batch]
            inputs = self.tokenizer.pad(
                {"input_ids": [prompt_ids(self.tokenizer, p) for p in group]}, return_tensors="pt"
            )
            length = self.domain.max_new_tokens
            out = model.generate(**inputs, do_sample=False, max_new_tokens=length)  # type: ignore[operator]
            for problem, row in zip(group, out[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
                tally.right.append(self.is_right(row, problem))
                tally.tokens += sum(token != pad for token in row)
        tally.seconds = time.perf_counter() - started
        tally.llm_tokens = tally.tokens if name == "llm_only" else 0
        return tally

    @torch.no_grad()
    def stitched(self, slm: PreTrainedModel, llm: PreTrainedModel, tau: float) -> Tally:
        """R-Stitch with one threshold, one problem at a time."""
        tally = Tally(f"tau {tau:g}")
        started = time.perf_counter()
        for problem in track(self.asked, description=tally.name):
            size = len(self.tokenizer)
            answer = stitch(
                CachedModel(slm, size), CachedModel(llm, size), prompt_ids(self.tokenizer, problem), Threshold(tau),
                max_new_tokens=self.domain.max_new_tokens, stop_tokens={self.tokenizer.eos_token_id},
            )  # fmt: skip
            tally.tokens += len(answer.written)
            tally.llm_tokens += answer.num_llm_tokens
            tally.switches += answer.num_switches
            tally.right.append(self.is_right([token.id for token in answer.written], problem))
        tally.seconds = time.perf_counter() - started
        return tally


def evaluate(
    slm: Path, llm: Path, domain: Domain[P], split: str, n: int, taus: tuple[float, ...] = TAUS
) -> list[Tally]:
    """Both models alone, then stitched at each threshold."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(slm)) if slm.is_dir() else train_tokenizer(domain)
    exam = Exam(domain, tokenizer, domain.generator.problems(split, n))
    pair = load(slm), load(llm)
    tallies = [exam.alone("slm_only", pair[0]), exam.alone("llm_only", pair[1])]
    return tallies + [exam.stitched(*pair, tau) for tau in taus]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a line of JSON for each way of decoding; returns the exit code."""
    return run(_evaluate, "python -m training.tiny.evaluate", __doc__, arguments)


def _evaluate(
    slm: Annotated[Path, typer.Argument(exists=True, help="Folder or checkpoint of the SLM.")],
    llm: Annotated[Path, typer.Argument(exists=True, help="Folder or checkpoint of the LLM.")],
    domain: Annotated[str, choice(DOMAINS, "What they were trained for.")] = "words",
    split: Annotated[str, choice(_SPLITS, "Whose problems they answer.")] = "dev",
    n: Annotated[int, typer.Option(help="Problems.")] = 500,
    taus: Annotated[
        list[float] | None,
        typer.Option(metavar=f"TAU{SEVERAL}", help="Thresholds.", show_default=" ".join(map(str, TAUS))),
    ] = None,
) -> None:
    torch.set_num_threads(1)
    for tally in evaluate(slm, llm, DOMAINS[domain], split, n, tuple(taus or TAUS)):
        print(json.dumps(tally.figures()))


if __name__ == "__main__":
    sys.exit(main())
