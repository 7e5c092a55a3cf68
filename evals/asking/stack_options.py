"""The options of a stack: its models, where they run, settings of its services. It starts nothing, loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from evals.options import many
from rstitch.local.part import default_threads

_PANEL = "The stack"
PARTS = {"router": "the router", "worker": "both workers", "slm": "the SLM", "llm": "the LLM"}


def _of_part(part: str) -> Any:
    told = f"A flag of {PARTS[part]}, such as --{part}-arg=--some-setting=7; may be repeated."
    return typer.Option(metavar="FLAG", help=told, rich_help_panel=_PANEL)


def _model(role: str) -> Any:
    return typer.Option(
        f"--{role}-model", f"--{role}", metavar="MODEL", help=f"Folder or hub id of the {role.upper()}.",
        show_default="the bundled one", rich_help_panel=_PANEL,
    )  # fmt: skip


def _device_of(role: str) -> Any:
    return typer.Option(help=f"Of the {role.upper()} alone.", show_default="--device", rich_help_panel=_PANEL)


_Dtype = typer.Option(
    help="float32 or bfloat16.", show_default="float32 on CPU, bfloat16 on CUDA", rich_help_panel=_PANEL
)
_Models = typer.Option(
    help="Folder with tiny-slm and tiny-llm.", show_default="the bundled ones", rich_help_panel=_PANEL
)
StackThreads = Annotated[
    int,
    typer.Option(
        min=1,
        help="CPU threads of each model, in all systems alike.",
        show_default="half of the machine's",
        rich_help_panel=_PANEL,
    ),
]


@dataclass(frozen=True, kw_only=True)
class PlaceOptions:
    """Where the models of a stack run, and settings of its services."""

    device: Annotated[str, typer.Option(help="Of both models: cpu or cuda:N.", rich_help_panel=_PANEL)] = "cpu"
    slm_device: Annotated[str | None, _device_of("slm")] = None
    llm_device: Annotated[str | None, _device_of("llm")] = None
    dtype: Annotated[str | None, _Dtype] = None
    threads: StackThreads = field(default_factory=default_threads)
    router_arg: Annotated[list[str], _of_part("router")] = many()
    worker_arg: Annotated[list[str], _of_part("worker")] = many()
    slm_arg: Annotated[list[str], _of_part("slm")] = many()
    llm_arg: Annotated[list[str], _of_part("llm")] = many()


@dataclass(frozen=True, kw_only=True)
class StackOptions(PlaceOptions):
    """A stack that is started: its models, too."""

    models: Annotated[Path | None, _Models] = None
    slm_model: Annotated[str | None, _model("slm")] = None
    llm_model: Annotated[str | None, _model("llm")] = None


@dataclass(frozen=True, kw_only=True)
class RouterOrStack(StackOptions):
    """A running router, or without its address a stack that is started."""

    router: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="A running router.", show_default="start a stack", rich_help_panel=_PANEL
        ),
    ] = None
