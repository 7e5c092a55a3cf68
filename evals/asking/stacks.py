"""The stack that is asked: a running one, or one that is started from options, with variants of it beside it."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import typer
from pydantic_settings import CliApp
from rich.console import Console

from evals.asking.access import forget_access
from evals.asking.stack_options import PARTS, PlaceOptions, RouterOrStack, StackOptions
from model_worker.build import build
from model_worker.engine.engine import Engine
from model_worker.settings import WorkerSettings
from model_worker.tokenizer import load_tokenizer
from rstitch.cli.progress import start
from rstitch.local.options import ROUTER_MODULE
from rstitch.local.part import bundled_model
from rstitch.local.stack import LocalStack, RouterOptions, WorkerOptions


@dataclass(frozen=True, slots=True)
class Flags:
    """More flags of the parts of a stack."""

    router: list[str] = field(default_factory=list)
    worker: list[str] = field(default_factory=list)
    slm: list[str] = field(default_factory=list)
    llm: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, options: PlaceOptions) -> Flags:
        """Takes those of the options."""
        return cls(options.router_arg, options.worker_arg, options.slm_arg, options.llm_arg)

    def __add__(self, other: Flags) -> Flags:
        return Flags(self.router + other.router, self.worker + other.worker, self.slm + other.slm, self.llm + other.llm)


class Variant(NamedTuple):
    """A second stack: what it is called, and the flags that it has more than the first."""

    name: str
    flags: Flags


def named_variant(text: str) -> Variant:
    """Reads `NAME: FLAGS`, where FLAGS are --router-arg=FLAG and its kin. Raises: BadParameter."""
    name, _, given = text.partition(":")
    flags = Flags()
    try:
        words = shlex.split(given)
        for word in words:
            flag, _, value = word.partition("=")
            part = flag.removeprefix("--").removesuffix("-arg")
            if flag != f"--{part}-arg" or part not in PARTS or not value:
                raise ValueError(f"{word!r} is no such flag")
            getattr(flags, part).append(value)
        if not words or not name.strip():
            raise ValueError("one of both is missing")
    except ValueError as error:
        what = f"{text!r} is not NAME: FLAGS with flags such as --router-arg=--catch-up-tokens=0: {error}"
        raise typer.BadParameter(what) from None
    return Variant(name.strip(), flags)


def models(options: StackOptions) -> tuple[str, str]:
    """Folders or hub ids of the SLM and the LLM."""
    slm, llm = (
        getattr(options, f"{role}_model")
        or (str(options.models / f"tiny-{role}") if options.models else bundled_model(f"tiny-{role}"))
        for role in ("slm", "llm")
    )
    return slm, llm


def device_and_dtype(options: PlaceOptions, role: str) -> tuple[str, str]:
    """Where a model runs and in what precision."""
    device: str = getattr(options, f"{role}_device") or options.device
    return device, options.dtype or ("float32" if device == "cpu" else "bfloat16")


def local_stack(
    options: PlaceOptions,
    extra: Flags | None = None,
    *,
    defaults: Flags | None = None,
    pair: tuple[str, str] | None = None,
    router_module: str = ROUTER_MODULE,
    **arguments: Any,
) -> LocalStack:
    """A stack of these options, not started. The options win over `defaults`, and `extra` wins over both.

    Args:
        pair: folders or hub ids of SLM and LLM; without it the options have some.
    """
    forget_access()
    flags = (defaults or Flags()) + Flags.of(options) + (extra or Flags())
    slm, llm = (
        WorkerOptions(model, device or options.device, options.dtype, options.threads, args=[*flags.worker, *own])
        for model, device, own in zip(
            pair or models(cast(StackOptions, options)),
            (options.slm_device, options.llm_device),
            (flags.slm, flags.llm),
            strict=True,
        )
    )
    return LocalStack(slm, llm, RouterOptions(module=router_module, args=flags.router), **arguments)


def router_of(options: RouterOrStack, held: ExitStack, console: Console) -> str:
    """The address of the router to ask; a stack that is started for it ends with `held`. Raises StackError."""
    if options.router:
        return options.router
    stack = local_stack(options)
    start(stack, console)
    held.callback(stack.stop)
    return stack.router_address


def llm_engine(options: StackOptions, kv_tokens: int) -> Engine:
    """The engine that the LLM's worker would have, in this process, with a cache of so many tokens."""
    llm = models(options)[1]
    device, dtype = device_and_dtype(options, "llm")
    flags = Flags.of(options)
    # fmt: off
    settings = CliApp.run(WorkerSettings, [
        "--model", llm, "--listen", "127.0.0.1:0", "--device", device, "--dtype", dtype,
        "--threads", str(options.threads), "--kv-tokens", str(kv_tokens), *flags.worker, *flags.llm,
    ])
    # fmt: on
    _, engine = build(settings, load_tokenizer(llm))
    return engine
