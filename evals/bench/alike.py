"""`bench alike URL`: whether our LLM alone says what another server says that has the same model.

Both are asked the same questions greedily, over OpenAI's API. Where two servers differ, the first token that does is
told with how far apart the other server held the two: where that is next to nothing, rounding alone chose.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated, Any

import httpx2
import typer
from rich.console import Console
from rich.progress import track

from evals.asking.stack_options import StackOptions
from evals.asking.stacks import local_stack
from evals.figures.report import Columns, Row, terminal_table
from evals.tasks.data import load_data
from evals.tasks.task import load
from rstitch.cli.progress import start, stopped_by_signals
from rstitch.errors import invalid
from rstitch.local.options import GatewayOptions

_OURS = "rstitch/llm"
_COLUMNS: Columns = {
    "route": "{route}",
    "answers": "{answers}",
    "tokens": "{tokens}",
    "same text": "{same}",
    "largest difference of a log-probability": "{logprob:.1e}",
    "usage differs": "{usage}",
    "first differences": "{told}",
}


@dataclass(frozen=True, slots=True)
class Told:
    """One answer: its text, thinking included, its tokens as text, their log-probabilities, and its usage.

    `others` are the log-probabilities of the most probable tokens in each place.
    """

    text: str
    tokens: list[str]
    logprobs: list[float]
    others: list[dict[str, float]]
    usage: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Options(StackOptions):
    """The options of `bench alike`."""

    url: Annotated[str, typer.Argument(metavar="URL", help="Of the other server, such as http://127.0.0.1:8123.")]
    name: Annotated[str, typer.Option(help="Of the model there.")] = _OURS
    n: Annotated[int, typer.Option(min=1, help="Questions.")] = 100
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 200


def run(options: Options) -> int:
    """Starts a stack with a gateway, asks both, prints. Returns 0 if all texts are the same, else 1."""
    console = Console()
    problems = load_data(load("tiny"), split="dev", n=options.n).problems
    prompts = [problem.prompt for problem in problems]
    with stopped_by_signals(), ExitStack() as held:
        theirs = held.enter_context(httpx2.Client(base_url=options.url, timeout=600))
        _check(theirs, options)
        stack = local_stack(options, gateway=GatewayOptions())
        start(stack, console)
        held.callback(stack.stop)
        ours = held.enter_context(httpx2.Client(base_url=f"http://{stack.gateway.address}", timeout=600))
        rows = [
            _compared(route, list(_pairs(route, ours, theirs, prompts, options, console)))
            for route in ("/v1/chat/completions", "/v1/completions")
        ]
    console.print(terminal_table("the LLM alone beside another server", _COLUMNS, rows))
    return 0 if all(row["same"] == row["answers"] for row in rows) else 1


def _check(theirs: httpx2.Client, options: Options) -> None:
    try:
        known = [each["id"] for each in theirs.get("/v1/models").raise_for_status().json()["data"]]
    except httpx2.HTTPError as error:
        raise invalid("URL", f"{options.url} does not answer: {error}", "start the other server first") from None
    if options.name not in known:
        raise invalid("--name", f"{options.url} serves {', '.join(known)}", "name one of them")


def _pairs(
    route: str, ours: httpx2.Client, theirs: httpx2.Client, prompts: list[str], options: Options,
    console: Console,
) -> Iterator[tuple[Told, Told]]:  # fmt: skip
    for prompt in track(prompts, route, console=console):
        asked: dict[str, Any] = {"temperature": 0, "max_tokens": options.max_new_tokens}
        if route.endswith("chat/completions"):
            asked |= {"messages": [{"role": "user", "content": prompt}], "logprobs": True, "top_logprobs": 5}
            asked["separate_reasoning"] = False  # the text as it was written, thinking and all
        else:
            asked |= {"prompt": prompt, "logprobs": 5}
        yield _ask(ours, route, asked | {"model": _OURS}), _ask(theirs, route, asked | {"model": options.name})


def _ask(server: httpx2.Client, route: str, body: dict[str, Any]) -> Told:
    answer = server.post(route, json=body).raise_for_status().json()
    choice, usage = answer["choices"][0], answer["usage"]
    found = choice["logprobs"]
    charged = usage["prompt_tokens"], usage["completion_tokens"]
    if "content" in found:
        told = found["content"]
        others = [{each["token"]: each["logprob"] for each in token["top_logprobs"]} for token in told]
        return Told(
            choice["message"]["content"],
            [each["token"] for each in told],
            [each["logprob"] for each in told],
            others,
            charged,
        )
    return Told(choice["text"], found["tokens"], found["token_logprobs"], found["top_logprobs"], charged)


def _compared(route: str, answers: list[tuple[Told, Told]]) -> Row:
    num_same, differences, first = 0, [0.0], list[str]()
    for ours, theirs in answers:
        same = num_alike(ours.tokens, theirs.tokens)
        if ours.text == theirs.text and same == len(ours.tokens) == len(theirs.tokens):
            num_same += 1
        else:
            first.append(_difference(ours, theirs, same))
        differences += [abs(a - b) for a, b in zip(ours.logprobs[:same], theirs.logprobs[:same], strict=True)]
    return {
        "route": route,
        "answers": len(answers),
        "tokens": sum(len(ours.tokens) for ours, _ in answers),
        "same": num_same,
        "logprob": max(differences),
        "usage": sum(ours.usage != theirs.usage for ours, theirs in answers),
        "told": "; ".join(first[:3]) or "none",
    }


def num_alike(ours: list[str], theirs: list[str]) -> int:
    """Counts the tokens from the beginning that are the same, by their texts."""
    num = min(len(ours), len(theirs))
    same = next((index for index in range(num) if ours[index] != theirs[index]), num)
    # The token that ends an answer has no text here, and a name elsewhere.
    ends = same == len(ours) - 1 == len(theirs) - 1 and not ours[same]
    return len(ours) if ends else same


def _difference(ours: Told, theirs: Told, at: int) -> str:
    if at >= len(ours.tokens) or at >= len(theirs.tokens):
        return f"lengths {len(ours.tokens)} and {len(theirs.tokens)}"
    apart = theirs.logprobs[at] - theirs.others[at].get(ours.tokens[at], float("-inf"))
    return f"token {at}: {ours.tokens[at]!r}, not {theirs.tokens[at]!r}, which are {apart:.1e} apart there"
