"""`bench overhead`: what a token and a switch cost outside the forwards, on the real stack beside a bare loop.

The same problems go through the stack (client, router, Redis, two workers) and through two bare cached transformers
models in this process, in turn. For each answer of the stack, the time outside the forwards is its latency less what
the workers' forwards took; a fit over all answers splits it, and each part that the router tells, into what a token, a
switch and an answer take of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import transformers
from rich.console import Console
from rich.progress import Progress
from transformers import AutoModelForCausalLM, AutoTokenizer

from evals.algorithm import bare
from evals.asking.flags import positive
from evals.asking.stacks import Flags, add_stack_arguments
from evals.bench import page
from evals.figures.progress import progress_bar
from evals.figures.provenance import ROOT, line, provenance
from evals.figures.report import Columns, Row, markdown_table, terminal_table
from evals.tasks.tiny.arithmetic import problems
from rstitch.client.aio import AsyncClient
from rstitch.client.types import Threshold, Usage
from rstitch.local.stack import LocalStack

# From the LLM alone to the SLM alone, so that tokens and switches vary independently.
TAUS = (-1.0, 0.005, 0.02, 0.1, 1.0)
MAX_NEW_TOKENS = 400
_ITERATIONS = 30
# What is outside the forwards, and what of it the router can tell apart.
PARTS = ("outside", "scheduling", "waiting", "transport", "store", "routing")
_COLUMNS: Columns = {
    "tau": lambda row: f"{row['tau']:g}",
    "tokens": lambda row: f"{row['tokens']:.1f}",
    "switches": lambda row: f"{row['switches']:.1f}",
    "stack": lambda row: f"{row['stack']:.3f}",
    "forwards": lambda row: f"{row['forwards']:.3f}",
    "outside": lambda row: f"{row['outside']:.3f}",
    "bare loop": lambda row: f"{row['bare']:.3f}",
    "its forwards": lambda row: f"{row['bare_forwards']:.3f}",
}
_PARTS: Columns = {
    "": lambda row: row["part"],
    "a token": lambda row: f"{row['fit'][0]:.3f}",
    "a switch": lambda row: f"{row['fit'][1]:.3f}",
    "an answer": lambda row: f"{row['fit'][2]:.3f}",
}


async def ask(client: AsyncClient, prompt: list[int], tau: float) -> Usage:
    """One answer of the stack."""
    answer = await client.answer(tokens=prompt, policy=Threshold(tau), max_new_tokens=MAX_NEW_TOKENS, guard=False)
    await client.delete_trajectory(answer.session_id)
    return answer.finished.usage


async def measure(
    address: str, slm: Any, llm: Any, prompts: list[list[int]], progress: Progress
) -> list[dict[str, float]]:
    """One record per problem and tau: both ways, one after the other."""
    records = []
    stop_tokens = {slm.generation_config.eos_token_id}
    async with AsyncClient(address) as client:
        for prompt in prompts[:2]:
            await ask(client, prompt, 0.02)  # both ways warm
            bare.stitch(slm, llm, prompt, 0.02, MAX_NEW_TOKENS, stop_tokens, slm.config.vocab_size)
        for prompt in progress.track(prompts, description="measuring"):
            for tau in TAUS:
                usage = await ask(client, prompt, tau)
                run = bare.stitch(slm, llm, prompt, tau, MAX_NEW_TOKENS, stop_tokens, slm.config.vocab_size)
                forward_ms = (usage.slm_forward_us + usage.llm_forward_us) / 1000
                records.append(
                    {
                        "tau": tau,
                        "tokens": usage.num_tokens,
                        "switches": usage.num_switches,
                        "stack_ms": usage.total_time_us / 1000,
                        "stack_forward_ms": forward_ms,
                        "bare_tokens": len(run.tokens),
                        "bare_ms": run.total_s * 1000,
                        "bare_forward_ms": run.forward_s * 1000,
                        "outside": usage.total_time_us / 1000 - forward_ms,
                    }
                    | {name: getattr(usage.breakdown, f"{name}_us") / 1000 for name in PARTS[1:]}
                )
    return records


def fit(records: list[dict[str, float]], part: str) -> tuple[float, float, float]:
    """Milliseconds of a part per token, per switch and per answer.

    Least absolute deviations, by reweighted least squares: an answer during which the machine did something else
    counts no more than any other.
    """
    design = np.array([[r["tokens"], r["switches"], 1.0] for r in records])
    target = np.array([r[part] for r in records])
    weights = np.ones(len(records))
    for _ in range(_ITERATIONS):
        root = np.sqrt(weights)
        solution = np.linalg.lstsq(design * root[:, None], target * root, rcond=None)[0]
        weights = 1 / np.maximum(np.abs(target - design @ solution), 1e-3)
    per_token, per_switch, per_answer = (float(value) for value in solution)
    return per_token, per_switch, per_answer


def rows(records: list[dict[str, float]]) -> list[Row]:
    """One row per tau: milliseconds per token, both ways."""
    table = []
    for tau in TAUS:
        chosen = [r for r in records if r["tau"] == tau]
        tokens, bare_tokens = sum(r["tokens"] for r in chosen), sum(r["bare_tokens"] for r in chosen)
        stack, forward = sum(r["stack_ms"] for r in chosen), sum(r["stack_forward_ms"] for r in chosen)
        table.append(
            {
                "tau": tau,
                "tokens": fmean(r["tokens"] for r in chosen),
                "switches": fmean(r["switches"] for r in chosen),
                "stack": stack / tokens,
                "forwards": forward / tokens,
                "outside": (stack - forward) / tokens,
                "bare": sum(r["bare_ms"] for r in chosen) / bare_tokens,
                "bare_forwards": sum(r["bare_forward_ms"] for r in chosen) / bare_tokens,
            }
        )
    return table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `bench overhead`."""
    parser.add_argument("--n", type=positive, default=30, help="problems (default 30)")
    parser.add_argument("--models", type=Path, default=ROOT / "models", help="folder with tiny-slm and tiny-llm")
    parser.add_argument("--json", type=Path, help="also write the records to this file")
    parser.add_argument("--write", action="store_true", help="also write the table into docs/performance.md")
    add_stack_arguments(parser, models=False)


def run(options: argparse.Namespace) -> int:
    """Starts a stack, measures, prints."""
    console = Console()
    torch.set_num_threads(1)  # as the stack's workers
    transformers.logging.disable_progress_bar()
    folders = [options.models / name for name in ("tiny-slm", "tiny-llm")]
    slm, llm = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval() for folder in folders)
    tokenizer: Any = AutoTokenizer.from_pretrained(folders[0])
    prompts: list[list[int]] = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": problem.question}], add_generation_prompt=True, return_dict=False
        )
        for problem in problems("dev", options.n)
    ]
    flags = Flags.of(options)
    with (
        LocalStack(
            slm_model=str(folders[0]),
            llm_model=str(folders[1]),
            threads=1,
            worker_args=flags.worker,
            slm_args=flags.slm,
            llm_args=flags.llm,
            # Nothing in the background: every forward is then on the answer's own path, and what is left outside of it.
            router_args=["--catch-up-tokens", "0", "--run-ahead", "off", *flags.router],
        ) as stack,
        progress_bar(console) as progress,
    ):
        records = asyncio.run(measure(stack.router_address, slm, llm, prompts, progress))
    parts: list[Row] = [{"part": part, "fit": fit(records, part)} for part in PARTS]
    facts, table = provenance(), rows(records)
    console.print(terminal_table("milliseconds per token", _COLUMNS, table))
    console.print(terminal_table(f"milliseconds outside the forwards, fitted to {len(records)} answers", _PARTS, parts))
    console.print(line(facts), style="dim")
    if options.write:
        told = (
            f"Milliseconds outside the forwards (least absolute deviations over {len(records)} answers). {line(facts)}"
        )
        text = "\n\n".join(
            [markdown_table(_COLUMNS, table), "Milliseconds per token.", markdown_table(_PARTS, parts), told]
        )
        page.write("overhead", text)
    if options.json is not None:
        options.json.write_text(json.dumps({"provenance": facts, "parts": parts, "records": records}, indent=1) + "\n")
    return 0
