"""`rstitch ask`: streams an answer, coloured by the model that wrote it, then says what it took."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from rstitch.cli import render
from rstitch.cli.access import ACCESS_OPTIONS
from rstitch.cli.assignments import biases_of, template_args
from rstitch.cli.common import Json, Router, command, err, out, print_json
from rstitch.cli.policies import HELP, spec_of
from rstitch.cli.trajectory import FullStrip, cancelled_text
from rstitch.cli.waiting import heard
from rstitch.client.plain import event_dict
from rstitch.client.sync import Client
from rstitch.client.types import Chunk, Details, Event, Finished, Message, Sampling, Started, Switch
from rstitch.credentials import Credentials
from rstitch.errors import NotFound, RstitchError, invalid
from rstitch.limits import ROUTER_ADDRESS

# How the wire's remedies say what a command says here.
_WIRE_WORDS = (
    (r"Re-attach (to it )?with resume_from", "Run {}"),
    (r"re-attach (to it )?with resume_from", "run {}"),
    (r"Go on with it by resume_from", "Go on with it by {}"),
    (r"attach\('[^']*', resume_from=\d+\) goes on", "{} goes on"),
)
# What `--resume` leaves room for: what was asked is stored with the answer.
_BESIDE_RESUME = ("context", "resume", "router", "timeout", "full_strip", "svg", "json")


@command
def ask(
    context: typer.Context,
    question: Annotated[str, typer.Argument(help="What to ask; - reads it from stdin.", show_default=False)] = "",
    resume: Annotated[
        str,
        typer.Option(
            metavar="SESSION", help="Ask nothing: show this session's last answer, and go on if it is not whole."
        ),
    ] = "",
    router: Router = ROUTER_ADDRESS,
    access: Credentials = Credentials(),
    policy: Annotated[str | None, typer.Option(help=HELP, show_default="the router's")] = None,
    tau: Annotated[float | None, typer.Option(help="threshold: the LLM takes over above this entropy.")] = None,
    tau_return: Annotated[
        float | None, typer.Option(help="threshold: the LLM hands back at this one.", show_default="tau")
    ] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Nucleus; 0 is all tokens.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="The most probable only; 0 is all tokens.")] = 0,
    min_p: Annotated[
        float, typer.Option(help="Only tokens so many times as probable as the most probable one; 0 is all.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same answer.")] = 0,
    logit_bias: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TOKEN=BIAS", help="Added to a token's logit, in [-100, 100]; an id of the LLM; may be repeated."
        ),
    ] = None,
    presence_penalty: Annotated[
        float, typer.Option(help="Taken off the logits of tokens that the answer has, in [-2, 2].")
    ] = 0.0,
    frequency_penalty: Annotated[
        float, typer.Option(help="Likewise, once for each time that the answer has the token, in [-2, 2].")
    ] = 0.0,
    repetition_penalty: Annotated[
        float, typer.Option(help="Divides such logits where they are over 0, and multiplies them below; 0 is 1: none.")
    ] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(help="At most so many.", show_default="the router's")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="String that ends the answer; may be repeated.")] = None,
    stop_token_id: Annotated[
        list[int] | None, typer.Option(help="Token that ends the answer, an id of the LLM; may be repeated.")
    ] = None,
    json_schema: Annotated[
        Path | None, typer.Option(help="File with a JSON schema: the answer is JSON that it allows.")
    ] = None,
    guard: Annotated[
        str | None,
        typer.Option(help="on | off: may the LLM write alone while routing loses?", show_default="the router's"),
    ] = None,
    session: Annotated[str, typer.Option(help="Continue this conversation, or name a new one.")] = "",
    cache_salt: Annotated[str, typer.Option(help="Share computed prompts only under this salt.")] = "",
    system: Annotated[str, typer.Option(help="System message before the question.")] = "",
    template_arg: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Variable of the chat template, such as enable_thinking=false."),
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="No chat template: continue the text as it is.")] = False,
    top_logprobs: Annotated[
        int | None,
        typer.Option(
            help="With --json: tell each token's logprob and text, and so many alternatives to it.",
            show_default="neither",
        ),
    ] = None,
    on_disconnect: Annotated[
        str | None,
        typer.Option(help="continue | stop: what a lost connection means for the answer.", show_default="the router's"),
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Give up after so many seconds.")] = None,
    full_strip: FullStrip = False,
    svg: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw what is printed into this file, too: a picture.")
    ] = None,
    json: Json = False,
) -> None:
    """Asks a question and shows who writes which part of the answer. Ctrl-C cancels it; what is written is kept."""
    if json and svg is not None:
        raise invalid("--svg", "with --json nothing is drawn.", "Leave one of them out.")
    if svg is not None and not svg.absolute().parent.is_dir():
        raise invalid("--svg", f"there is no folder {svg.parent}.", "Make it first.")
    if resume:
        _check_alone(context)
    elif not question:
        raise invalid("question", "there is none.", 'Write rstitch ask "...", or --resume SESSION.')
    if top_logprobs is not None and not json:
        raise invalid("--top-logprobs", "only --json shows them.", "Add --json, or leave it out.")
    if question == "-":
        question = sys.stdin.read()
    messages = [*([Message("system", system)] if system else []), Message("user", question)]
    spec = spec_of(policy, tau, tau_return)
    biases = biases_of(logit_bias or ())
    penalties = (presence_penalty, frequency_penalty, repetition_penalty)
    sampling = Sampling(temperature, top_p, top_k, seed, min_p, biases, *penalties)
    wish: Any = on_disconnect  # whether it is one of the two is checked where it is sent
    with Client(router, timeout, credentials=access) as client:
        events = (
            client.attach(resume)
            if resume
            else client.generate(
                question if raw else None,
                chat=None if raw else messages,
                chat_template_kwargs=template_args(template_arg or ()),
                policy=spec.policy,
                early_exit=spec.early_exit,
                budget=spec.budget,
                sampling=sampling,
                max_new_tokens=max_new_tokens,
                stop=stop or (),
                stop_token_ids=stop_token_id or (),
                json_schema=_schema(json_schema),
                guard=_on_or_off(guard),
                session_id=session,
                cache_salt=cache_salt,
                details=None if top_logprobs is None else Details(top_logprobs),
                on_disconnect=wish,
            )
        )
        asked = _Asked(heard(events, client, err()), resume or session)
        try:
            if json:
                for event in asked:
                    print_json(event_dict(event))
            else:
                _show_and_draw(asked, full_strip, svg)
        except RstitchError as error:
            _name_command(error, asked.session_id, "" if router == ROUTER_ADDRESS else f" --router {router}")
            raise
        except KeyboardInterrupt:
            if asked.session_id:
                with contextlib.suppress(NotFound):  # the router had not taken the question yet
                    text = cancelled_text(asked.session_id, client.cancel(asked.session_id))
                    err().print(f"\n{text}", soft_wrap=True)
            raise


class _Asked:
    """The events of an answer, and its session as soon as that is known: before `Started`, if the caller named it."""

    def __init__(self, events: Iterable[Event], session_id: str) -> None:
        self.session_id = session_id
        self._events = events

    def __iter__(self) -> Iterator[Event]:
        for event in self._events:
            if isinstance(event, Started):
                self.session_id = event.session_id
            yield event


def _show_and_draw(asked: Iterable[Event], full_strip: bool, svg: Path | None) -> None:
    console = out() if svg is None else Console(highlight=False, record=True)
    show(asked, console, full_strip)
    if svg is not None:
        console.save_svg(str(svg), title="rstitch ask")


def _check_alone(context: typer.Context) -> None:
    """Refuses what would go with a question: the answer that is gone on with has its own."""
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in _BESIDE_RESUME or name in ACCESS_OPTIONS:
            continue
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            word = parameter.opts[0] if parameter.opts[0].startswith("-") else "question"
            raise invalid("--resume", f"{word} goes with a new question.", "Leave it out, or leave out --resume.")


def _name_command(error: RstitchError, session_id: str, where: str) -> None:
    """Puts a command into the remedy of an error after which an answer can be gone on with, in the place of a field."""
    session_id = error.metadata.get("session_id", session_id)
    remedy = error.remedy or ""
    if not session_id or not ("resume_from" in error.metadata or "resume_from" in remedy):
        return
    named = f"`rstitch ask --resume {session_id}{where}`"
    for pattern, instead in _WIRE_WORDS:
        if found := re.search(pattern, remedy):
            remedy = remedy.replace(found[0], instead.format(named))
    error.remedy = remedy if named in remedy else f"{remedy} {named} goes on with it.".lstrip()


def _schema(file: Path | None) -> str:
    try:
        return file.read_text() if file is not None else ""
    except (OSError, ValueError) as error:
        raise invalid("--json-schema", f"{file} cannot be read: {error}.", "Name a file with a JSON schema.") from error


def _on_or_off(value: str | None) -> bool | None:
    if value not in (None, "on", "off"):
        raise invalid("--guard", f"{value} is neither on nor off.", "Write --guard on or --guard off.")
    return None if value is None else value == "on"


def show(events: Iterable[Event], console: Console, full_strip: bool = False) -> None:
    """Prints an answer as it comes, then its strip (folded, unless `full_strip`), switches and usage."""
    written: list[render.Written] = []
    switches: list[Switch] = []
    session_id = trace_id = ""
    for event in events:
        match event:
            case Started():
                session_id, trace_id = event.session_id, event.trace_id
                console.print(render.legend(), end="\n\n")
            case Chunk():
                console.print(event.text, style=render.style_of(event.model), end="", markup=False, soft_wrap=True)
                written += [(event.model.value, entropy) for entropy in event.entropies]
            case Switch():
                switches.append(event)
                written += render.discarded(event.to_model, event.reason, event.entropy)
            case Finished():
                console.print("\n")
                console.print(render.entropy_line(written, None if full_strip else console.width), end="\n\n")
                if switches:
                    console.print(*render.switch_list(switches), sep="\n", end="\n\n")
                console.print(render.usage_table(event))
                console.print(f"session {session_id}", style="dim", soft_wrap=True)
                for ending in render.endings(event):
                    console.print(ending, style="yellow")
                if event.guard_reason:
                    console.print(f"the LLM alone: {event.guard_reason}", style="yellow")
                if trace_id:
                    console.print(f"trace {trace_id}", style="dim")
