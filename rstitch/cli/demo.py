"""`rstitch demo`: the system in a minute. A few questions, each asked three ways, side by side."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from rstitch.cli import render
from rstitch.cli.common import command, out
from rstitch.cli.examples import DEMO_TAU, EXAMPLES, Example, boxed
from rstitch.cli.progress import start, stopped_by_signals
from rstitch.client.sync import Client
from rstitch.client.types import Answer, LlmOnly, Message, Policy, SlmOnly, Threshold
from rstitch.credentials import Credentials
from rstitch.limits import GATEWAY_ADDRESS
from rstitch.local.stack import LocalStack

# What an answer may need at most; the longest of the tiny LLM's are about half of it.
_MAX_NEW_TOKENS = 400


@command
def demo(
    tau: Annotated[float, typer.Option(help="The LLM takes over above this entropy.")] = DEMO_TAU,
    questions: Annotated[int, typer.Option("--questions", "-n", min=1, max=len(EXAMPLES), help="How many.")] = 3,
    router: Annotated[
        str | None, typer.Option("--router", metavar="HOST:PORT", help="Ask this router; start nothing.")
    ] = None,
    secure: Annotated[
        bool, typer.Option("--secure", help="With certificates on every wire, and a key for whoever asks.")
    ] = False,
    access: Credentials = Credentials(),
) -> None:
    """Starts everything, asks three questions of the LLM, the SLM and both together, and stops."""
    console = out()
    with stopped_by_signals():
        if router is not None:
            ask_all(router, EXAMPLES[:questions], tau, console, access)
            return
        stack = LocalStack(secure=secure)
        start(stack, console)
        try:
            ask_all(stack.router_address, EXAMPLES[:questions], tau, console, stack.credentials)
        finally:
            stack.stop()
    console.print(
        '\nStopped. To keep it running: [bold]rstitch up[/]; then, elsewhere: [bold]rstitch ask "..."[/], or look at '
        f"http://{GATEWAY_ADDRESS}",
        style="dim",
    )


def ask_all(
    router: str, examples: tuple[Example, ...], tau: float, console: Console, access: Credentials = Credentials()
) -> None:
    """Asks every question under every policy and prints what came."""
    both = f"R-Stitch, tau {tau:g}"
    policies: dict[str, Policy] = {"LLM only": LlmOnly(), "SLM only": SlmOnly(), both: Threshold(tau)}
    answers: dict[str, list[Answer]] = {name: [] for name in policies}
    with Client(router, timeout_s=120, credentials=access) as client:
        for policy in policies.values():  # what is done once and lazily should not count as anyone's time
            _ask(client, Example("How many?", 0), policy, max_new_tokens=4)
        for number, example in enumerate(examples, 1):
            console.print(Rule(f"question {number} of {len(examples)}", style="dim"))
            console.print(Text(example.question, style="bold"), end="\n\n")
            table = Table(box=None, padding=(0, 3, 0, 0), expand=True)
            for name in policies:
                table.add_column(name, ratio=1)
            for name, policy in policies.items():
                answers[name].append(_ask(client, example, policy, _MAX_NEW_TOKENS))
            latest = [answers[name][-1] for name in policies]
            table.add_row(*(_text(answer) for answer in latest))
            table.add_row(*(_facts(answer, example) for answer in latest))
            console.print(table)
            console.print()
    stitched = max(answers[both], key=lambda answer: len(answer.switches))
    written = render.written(stitched)
    console.print(Rule("who wrote what", style="dim"))
    console.print(render.legend(), end="\n\n")
    console.print(_text(stitched))
    console.print(render.entropy_line(written, console.width), end="\n\n")
    for line in render.switch_list(stitched.switches):
        console.print(line)
    console.print()
    console.print(Rule("all together", style="dim"))
    console.print(_summary(answers, examples))


def _ask(client: Client, example: Example, policy: Policy, max_new_tokens: int) -> Answer:
    chat = [Message("user", example.question)]
    return client.answer(chat=chat, policy=policy, max_new_tokens=max_new_tokens)


def _text(answer: Answer) -> Text:
    return Text.assemble(*((chunk.text, render.style_of(chunk.model)) for chunk in answer.chunks), "\n")


def _facts(answer: Answer, example: Example) -> Text:
    usage = answer.finished.usage
    right = example.is_solved_by(answer.text)
    verdict = ("✔ right", "green") if right else (f"✘ wrong, {boxed(answer.text)} is not {example.answer}", "bold red")
    facts = f"{render.seconds(usage.total_time_us)}, {usage.num_tokens} tokens, LLM share {render.share(usage)}"
    return Text.assemble(verdict, (f"\n{facts}", "dim"))


def _summary(answers: dict[str, list[Answer]], examples: tuple[Example, ...]) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0))
    table.add_column("")
    for name in ("right", "tokens", "by the LLM", "switches", "time", "first token"):
        table.add_column(name, justify="right")
    for policy, given in answers.items():
        usages = [answer.finished.usage for answer in given]
        right = sum(example.is_solved_by(answer.text) for example, answer in zip(examples, given, strict=True))
        tokens, llm = sum(u.num_tokens for u in usages), sum(u.num_llm_tokens for u in usages)
        table.add_row(
            Text(policy, style="bold"),
            f"{right} of {len(given)}",
            str(tokens),
            f"{100 * llm / max(1, tokens):.0f}%",
            str(sum(u.num_switches for u in usages)),
            render.seconds(sum(u.total_time_us for u in usages)),
            render.seconds(round(sum(u.time_to_first_token_us for u in usages) / len(usages))),
        )
    return table
