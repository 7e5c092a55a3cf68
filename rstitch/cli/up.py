"""`rstitch up`: the whole system on this machine, until Ctrl-C."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from rstitch.cli.common import command, err
from rstitch.cli.examples import PROPOSED
from rstitch.cli.progress import start, stopped_by_signals
from rstitch.errors import invalid
from rstitch.limits import ROUTER_PORT
from rstitch.local.readiness import without_secrets
from rstitch.local.stack import LocalStack, RouterOptions, WorkerOptions

_WATCH_S = 0.5


@command
def up(
    slm_model: Annotated[
        str | None, typer.Option(help="Folder or hub id.", show_default="the bundled tiny SLM")
    ] = None,
    llm_model: Annotated[
        str | None, typer.Option(help="Folder or hub id.", show_default="the bundled tiny LLM")
    ] = None,
    shared: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="A model with shared layers, which is both.", show_default="two models"),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda:N, for both models.")] = "cpu",
    slm_device: Annotated[str | None, typer.Option(help="For the SLM alone.", show_default="--device")] = None,
    llm_device: Annotated[str | None, typer.Option(help="For the LLM alone.", show_default="--device")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float64.", show_default="float32 on CPU, auto on CUDA")
    ] = None,
    batch_invariant: Annotated[
        bool, typer.Option("--batch-invariant", help="The same tokens alone and in any batch, bit for bit; slower.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the router; 0: a free one.")] = ROUTER_PORT,
    redis: Annotated[
        str | None, typer.Option(metavar="URL", help="An existing Redis.", show_default="one of its own")
    ] = None,
    otlp_endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="Where traces go: OTLP over gRPC.", show_default="nowhere")
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65533,
            help="Where the router's metrics are scraped; the SLM's at the next, the LLM's at the one after it.",
            show_default="nowhere",
        ),
    ] = None,
    secure: Annotated[
        bool, typer.Option("--secure", help="With certificates on every wire, and a key for whoever asks.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=1, help="How long a part may take to start, in s.")] = 600.0,
) -> None:
    """Starts Redis, both workers and the router, and stops them on Ctrl-C."""
    console = err()
    if shared is not None and (slm_model or llm_model):
        raise invalid("--shared", "a shared model is both models.", "Name it alone, or name two models.")
    of_router, of_slm, of_llm = (_metrics_args(metrics_port, offset) for offset in range(3))
    stack = LocalStack(
        WorkerOptions(slm_model, slm_device or device, dtype, batch_invariant=batch_invariant, args=of_slm),
        WorkerOptions(shared or llm_model, llm_device or device, dtype, batch_invariant=batch_invariant, args=of_llm),
        RouterOptions(port, args=of_router),
        shared_layers=shared is not None,
        redis_url=redis,
        env={"OTEL_EXPORTER_OTLP_ENDPOINT": otlp_endpoint} if otlp_endpoint else None,
        timeout_s=timeout,
        secure=secure,
    )
    with stopped_by_signals():
        start(stack, console)
        try:
            where = "" if port == ROUTER_PORT else f" --router {stack.router_address}"
            slm, llm = stack.worker_addresses
            console.print(
                f"router [bold]{stack.router_address}[/], SLM {slm}, LLM {llm}, {without_secrets(stack.redis_url)}",
                soft_wrap=True,
            )
            if secure:
                shown = stack.credentials.as_environment()
                told = " ".join(f"{name}={value}" for name, value in shown.items())
                console.print(f"who asks needs a key and a certificate: [bold]export {told}[/]", soft_wrap=True)
            console.print(f'ask:  [bold]rstitch ask{where} "{PROPOSED.question}"[/]', soft_wrap=True)
            console.print(f"logs: {stack.folder}\nCtrl-C stops everything", style="dim", soft_wrap=True)
            while True:
                stack.check()
                time.sleep(_WATCH_S)
        except KeyboardInterrupt:
            pass
        finally:
            stack.stop(lambda part: console.print(f"stopping {part}", style="dim"))


def _metrics_args(first_port: int | None, offset: int) -> list[str]:
    return [] if first_port is None else ["--metrics-listen", f"127.0.0.1:{first_port + offset}"]
