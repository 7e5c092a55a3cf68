"""`bench overhead`: what a token and a switch cost outside the forwards, on the real stack beside a bare loop.

The same problems go through the stack (client, router, Redis, two workers) and through two bare cached transformers
models in this process, in turn. For each answer of the stack, the time outside the forwards is its latency less what
the workers' forwards took; a fit over all answers splits it, and each place that the router tells, into what a token, a
switch and an answer take of it.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import pandas as pd
import torch
import transformers
import typer
from rich.console import Console
from rich.progress import Progress
from transformers import AutoModelForCausalLM, AutoTokenizer

from evals.algorithm import bare
from evals.asking.ask import ask, jobs
from evals.asking.record import Record
from evals.asking.stack_options import StackOptions, StackThreads
from evals.asking.stacks import Flags, local_stack, models
from evals.asking.systems import Served, System, Terms
from evals.bench import outside, page
from evals.figures.progress import progress_bar
from evals.figures.report import Columns, Row, markdown_table, terminal_table
from evals.tasks.data import Problem, load_data
from evals.tasks.task import load
from rstitch.client.aio import AsyncClient
from rstitch.client.types import Threshold

# From the LLM alone to the SLM alone, so that tokens and switches vary independently.
TAUS = (-1.0, 0.005, 0.02, 0.1, 1.0)
MAX_NEW_TOKENS = 400
_BARE = "bare "
_COLUMNS: Columns = {
    "tau": "{tau:g}",
    "tokens": "{tokens:.1f}",
    "switches": "{switches:.1f}",
    "stack": "{stack:.3f}",
    "forwards": "{forwards:.3f}",
    "outside": "{outside:.3f}",
    "bare loop": "{bare_stack:.3f}",
    "its forwards": "{bare_forwards:.3f}",
}
_PLACES: Columns = {
    "": "{place}",
    "a token": "{fit[0]:.3f}",
    "a switch": "{fit[1]:.3f}",
    "an answer": "{fit[2]:.3f}",
}


@dataclass
class Bare(System):
    """Algorithm 1 over two cached transformers models in this process: the floor of what a stack can cost."""

    name: str
    pair: tuple[Any, Any]
    tokenizer: Any
    tau: float

    async def answer(self, problem: Problem, sample: int = 0) -> Record:
        """Answers at once; nothing else runs in this process meanwhile."""
        slm, llm = self.pair
        prompt: list[int] = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": problem.prompt}], add_generation_prompt=True, return_dict=False
        )
        stops = {slm.generation_config.eos_token_id}
        run = bare.stitch(slm, llm, prompt, self.tau, MAX_NEW_TOKENS, stops, slm.config.vocab_size)
        usage = {
            "num_llm_tokens": len(run.tokens),
            "total_time_us": int(1e6 * run.total_s),
            "breakdown": {"slm_forward_us": 0, "llm_forward_us": int(1e6 * run.forward_s)},
        }
        return Record(self.name, problem.index, problem.id, sample, 0, usage=usage)


@dataclass(frozen=True, kw_only=True)
class Options(StackOptions, page.PageOptions):
    """The options of `bench overhead`."""

    n: Annotated[int, typer.Option(min=1, help="Problems.")] = 30
    threads: StackThreads = 1


def run(options: Options) -> int:
    """Starts a stack, measures, prints."""
    console = Console()
    torch.set_num_threads(options.threads)
    transformers.logging.disable_progress_bar()
    # Nothing in the background: every forward is then on the answer's own path, and what is left outside of it.
    quiet = Flags(router=["--catch-up-tokens", "0", "--run-ahead", "off"])
    with local_stack(options, defaults=quiet) as stack, progress_bar(console) as progress:
        records = asyncio.run(measure(stack.router_address, options, progress))
    served = [record for record in records if not record.system.startswith(_BARE)]
    counts = [record.num_tokens for record in served], [record.count("switches") for record in served]
    places: list[Row] = [
        {"place": place, "fit": outside.fit(ms, *counts)} for place, ms in outside.spent(served).items()
    ]
    shown = {
        "Milliseconds per token.": (_COLUMNS, rows(records)),
        f"Milliseconds outside the forwards (robust least squares over {len(served)} answers).": (_PLACES, places),
    }
    for title, (columns, told) in shown.items():
        console.print(terminal_table(title, columns, told))
    text = "\n\n".join(f"{markdown_table(columns, told)}\n\n{title}" for title, (columns, told) in shown.items())
    found = {"parts": places, "records": [asdict(record) for record in records]}
    page.finish(options, "overhead", found, text, console)
    return 0


async def measure(address: str, options: Options, progress: Progress) -> list[Record]:
    """Asks for each problem at each tau both ways, one after the other."""
    folders = models(options)
    pair: Any = tuple(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval() for folder in folders)
    tokenizer: Any = AutoTokenizer.from_pretrained(folders[0])
    problems = load_data(load("tiny"), split="dev", n=options.n).problems
    async with AsyncClient(address) as client:
        systems: list[System] = []
        for tau in TAUS:
            systems.append(Served(f"{tau:g}", client, Threshold(tau), Terms(MAX_NEW_TOKENS)))
            systems.append(Bare(f"{_BARE}{tau:g}", pair, tokenizer, tau))
        await ask(list(jobs(systems[4:6], problems[:2])))  # both ways warm
        wanted = list(jobs(systems, problems))
        bar = progress.add_task("measuring", total=len(wanted))
        return await ask(wanted, on_record=lambda record: progress.advance(bar))


def rows(records: list[Record]) -> list[Row]:
    """One row per tau: milliseconds per token, both ways."""
    table = pd.DataFrame(
        {
            "system": record.system,
            "tokens": record.num_tokens,
            "switches": record.count("switches"),
            "stack": record.latency_ms,
            "forwards": record.latency_ms - record.outside_ms,
            "outside": record.outside_ms,
        }
        for record in records
    )
    means = table.groupby("system").mean()
    per_token = means.div(means["tokens"], axis=0)
    return [
        {
            "tau": tau,
            **means.loc[f"{tau:g}", ["tokens", "switches"]],
            **per_token.loc[f"{tau:g}", ["stack", "forwards", "outside"]],
            **{f"bare_{name}": per_token.loc[f"{_BARE}{tau:g}", name] for name in ("stack", "forwards")},
        }
        for tau in TAUS
    ]
