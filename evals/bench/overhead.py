"""`make bench-overhead`: what a token and a switch cost outside the forwards, on the real stack beside a bare loop.

The same problems go through the stack (client, router, Redis, two workers) and through two bare cached transformers
models in this process, in turn. For each answer of the stack, the time outside the forwards is its latency less what
the workers' forwards took; a least-squares fit over all answers splits it into parts per token, switch and answer.
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
from rich.progress import track
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

from evals import bare, report
from evals.provenance import ROOT, line, provenance
from rstitch.client.aio import AsyncClient
from rstitch.client.types import Threshold, Usage
from rstitch.stack import LocalStack
from training.tiny.task import problems

# From the LLM alone to the SLM alone, so that tokens and switches vary independently.
TAUS = (-1.0, 0.005, 0.02, 0.1, 1.0)
MAX_NEW_TOKENS = 400
COLUMNS = ("tau", "tokens", "switches", "stack", "its forwards", "outside", "bare loop", "its forwards")


async def ask(client: AsyncClient, prompt: list[int], tau: float) -> Usage:
    """One answer of the stack."""
    answer = await client.answer(tokens=prompt, policy=Threshold(tau), max_new_tokens=MAX_NEW_TOKENS)
    await client.delete_trajectory(answer.session_id)
    return answer.finished.usage


async def measure(
    address: str, slm: Any, llm: Any, prompts: list[list[int]], console: Console
) -> list[dict[str, float]]:
    """One record per problem and tau: both ways, one after the other."""
    records = []
    stop_tokens = {slm.generation_config.eos_token_id}
    async with AsyncClient(address) as client:
        for prompt in prompts[:2]:
            await ask(client, prompt, 0.02)  # both ways warm
            bare.stitch(slm, llm, prompt, 0.02, MAX_NEW_TOKENS, stop_tokens, slm.config.vocab_size)
        for prompt in track(prompts, "measuring", console=console):
            for tau in TAUS:
                usage = await ask(client, prompt, tau)
                run = bare.stitch(slm, llm, prompt, tau, MAX_NEW_TOKENS, stop_tokens, slm.config.vocab_size)
                records.append(
                    {
                        "tau": tau,
                        "tokens": usage.num_tokens,
                        "switches": usage.num_switches,
                        "stack_ms": usage.total_time_us / 1000,
                        "stack_forward_ms": (usage.slm_forward_us + usage.llm_forward_us) / 1000,
                        "bare_tokens": len(run.tokens),
                        "bare_ms": run.total_s * 1000,
                        "bare_forward_ms": run.forward_s * 1000,
                    }
                )
    return records


def fit(records: list[dict[str, float]]) -> tuple[float, float, float]:
    """Milliseconds outside the forwards per token, per switch and per answer (least squares)."""
    design = np.array([[r["tokens"], r["switches"], 1.0] for r in records])
    outside = np.array([r["stack_ms"] - r["stack_forward_ms"] for r in records])
    (per_token, per_switch, per_answer), *_ = np.linalg.lstsq(design, outside, rcond=None)
    return float(per_token), float(per_switch), float(per_answer)


def rows(records: list[dict[str, float]]) -> list[list[str]]:
    """One row per tau: milliseconds per token, both ways."""
    table = []
    for tau in TAUS:
        chosen = [r for r in records if r["tau"] == tau]
        tokens, bare_tokens = sum(r["tokens"] for r in chosen), sum(r["bare_tokens"] for r in chosen)
        stack, forward = sum(r["stack_ms"] for r in chosen), sum(r["stack_forward_ms"] for r in chosen)
        table.append(
            [
                f"{tau:g}",
                f"{fmean(r['tokens'] for r in chosen):.1f}",
                f"{fmean(r['switches'] for r in chosen):.1f}",
                f"{stack / tokens:.3f}",
                f"{forward / tokens:.3f}",
                f"{(stack - forward) / tokens:.3f}",
                f"{sum(r['bare_ms'] for r in chosen) / bare_tokens:.3f}",
                f"{sum(r['bare_forward_ms'] for r in chosen) / bare_tokens:.3f}",
            ]
        )
    return table


def main() -> None:
    """Parses flags, starts a stack, measures, prints."""
    parser = argparse.ArgumentParser(prog="python -m evals.bench_overhead", description=__doc__)
    parser.add_argument("--n", type=int, default=30, help="problems (default 30)")
    parser.add_argument("--models", type=Path, default=ROOT / "models", help="folder with tiny-slm and tiny-llm")
    parser.add_argument("--json", type=Path, help="also write the records to this file")
    parser.add_argument("--write", action="store_true", help="also write the table into docs/results.md")
    options = parser.parse_args()
    console = Console()
    torch.set_num_threads(1)  # as the stack's workers
    transformers.logging.disable_progress_bar()
    slm, llm = (
        AutoModelForCausalLM.from_pretrained(options.models / name, dtype=torch.float32).eval()
        for name in ("tiny-slm", "tiny-llm")
    )
    tokenizer: Any = AutoTokenizer.from_pretrained(options.models / "tiny-slm")
    prompts: list[list[int]] = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": problem.question}], add_generation_prompt=True, return_dict=False
        )
        for problem in problems("dev", options.n)
    ]
    # No background catch-up: then every forward is on the answer's own path, and what is left is outside of it.
    with LocalStack(router_args=["--catch-up-tokens", "0"]) as stack:
        records = asyncio.run(measure(stack.router_address, slm, llm, prompts, console))
    per_token, per_switch, per_answer = fit(records)
    summary = (
        f"Outside the forwards (least squares over {len(records)} answers): {per_token:.3f} ms a token, "
        f"{per_switch:.3f} ms a switch, {per_answer:.3f} ms an answer."
    )
    table = Table(*COLUMNS, title="milliseconds per token")
    for row in rows(records):
        table.add_row(*row)
    console.print(table)
    console.print(summary, style="bold")
    console.print(line(provenance()), style="dim")
    if options.write:
        lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "-:|" * len(COLUMNS)]
        lines += ["| " + " | ".join(row) + " |" for row in rows(records)]
        text = "\n".join([*lines, "", f"Milliseconds per token. {summary} {line(provenance())}"])
        report.replace_section(ROOT / "docs" / "results.md", "overhead", text)
    if options.json is not None:
        options.json.write_text(json.dumps({"provenance": provenance(), "records": records}, indent=1) + "\n")


if __name__ == "__main__":
    main()
