"""The flags of the stack that is asked: a running one, or one that is started, with its models. It starts nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from rstitch.local.part import default_threads

_option = partial(typer.Option, rich_help_panel="The models and the services")


def _of_part(part: str, whom: str) -> Any:
    return _option(metavar="FLAG", help=f"A flag of {whom}, such as --{part}-arg=--some-setting=7; may be repeated.")


@dataclass(frozen=True, slots=True)
class StackFlags:
    """Says which models answer, where they run, and with what settings of the services."""

    models: Annotated[
        Path | None, _option(help="Folder with tiny-slm and tiny-llm.", show_default="the bundled ones")
    ] = None
    slm_model: Annotated[
        str | None,
        _option("--slm-model", "--slm", metavar="MODEL", help="Folder or hub id.", show_default="the bundled SLM"),
    ] = None
    llm_model: Annotated[
        str | None,
        _option("--llm-model", "--llm", metavar="MODEL", help="Folder or hub id.", show_default="the bundled LLM"),
    ] = None
    device: Annotated[str, _option(help="cpu or cuda:N, for both models.")] = "cpu"
    slm_device: Annotated[str | None, _option(help="For the SLM alone.", show_default="--device")] = None
    llm_device: Annotated[str | None, _option(help="For the LLM alone.", show_default="--device")] = None
    dtype: Annotated[
        str | None, _option(help="float32 or bfloat16.", show_default="float32 on CPU, bfloat16 on CUDA")
    ] = None
    threads: Annotated[
        int, _option(min=1, help="CPU threads of each model, in all systems alike.", show_default="half the machine's")
    ] = field(default_factory=default_threads)
    router_arg: Annotated[list[str], _of_part("router", "the router")] = field(default_factory=list)
    worker_arg: Annotated[list[str], _of_part("worker", "both workers")] = field(default_factory=list)
    slm_arg: Annotated[list[str], _of_part("slm", "the SLM")] = field(default_factory=list)
    llm_arg: Annotated[list[str], _of_part("llm", "the LLM")] = field(default_factory=list)

    @property
    def options(self) -> Any:
        """These flags for what of `evals` reads options by name."""
        return self
