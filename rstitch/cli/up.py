"""`rstitch up`: the whole system on this machine, until Ctrl-C."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from rstitch.cli.common import command, err
from rstitch.cli.examples import PROPOSED
from rstitch.cli.log_lines import last_lines
from rstitch.cli.progress import start, stopped_by_signals
from rstitch.errors import invalid
from rstitch.limits import GATEWAY_ADDRESS, ROUTER_PORT, host_and_port
from rstitch.local.checks import check_flags, check_worker
from rstitch.local.gateway import can_be_started
from rstitch.local.processes import free_port
from rstitch.local.readiness import without_secrets
from rstitch.local.stack import GatewayOptions, LocalStack, RouterOptions, StackError, WorkerOptions
from rstitch.local.supervisor import Supervisor

_WATCH_S = 0.5
# Of the log of a part that is started again.
_NUM_LOG_LINES = 5


def _of_part(whom: str, example: str) -> Any:
    told = f"A flag of {whom}, such as {example}; may be repeated."
    return typer.Option(metavar="FLAG", help=told, rich_help_panel="Flags of the parts (docs/operations.md)")


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
    slm_workers: Annotated[int, typer.Option(min=1, max=64, help="How many workers the SLM has.")] = 1,
    llm_workers: Annotated[int, typer.Option(min=1, max=64, help="How many workers the LLM has.")] = 1,
    routers: Annotated[int, typer.Option(min=1, max=16, help="How many routers there are.")] = 1,
    device: Annotated[
        str, typer.Option(help="cpu or cuda:N, for both models; several with commas, for workers in turn.")
    ] = "cpu",
    slm_device: Annotated[str | None, typer.Option(help="For the SLM alone.", show_default="--device")] = None,
    llm_device: Annotated[str | None, typer.Option(help="For the LLM alone.", show_default="--device")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float64.", show_default="float32 on CPU, auto on CUDA")
    ] = None,
    batch_invariant: Annotated[
        bool, typer.Option("--batch-invariant", help="The same tokens alone and in any batch, bit for bit; slower.")
    ] = False,
    slm_arg: Annotated[list[str] | None, _of_part("the SLM's worker", "--slm-arg=--kv-tokens=8192")] = None,
    llm_arg: Annotated[list[str] | None, _of_part("the LLM's worker", "--llm-arg=--max-batch-tokens=2048")] = None,
    router_arg: Annotated[list[str] | None, _of_part("the router", "--router-arg=--tau=0.05")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the router; 0: a free one.")] = ROUTER_PORT,
    http_listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where the HTTP gateway and its page are served.")
    ] = GATEWAY_ADDRESS,
    http: Annotated[bool, typer.Option("--http/--no-http", help="Whether there is a gateway.")] = True,
    served_model_name: Annotated[
        list[str] | None, typer.Option(help="A further name for the model `rstitch` over HTTP; may be repeated.")
    ] = None,
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
            help="Where the router's metrics are scraped; the SLM's at the next, the LLM's at the one after it, further"
            " workers' and routers' from there on.",
            show_default="nowhere",
        ),
    ] = None,
    secure: Annotated[
        bool, typer.Option("--secure", help="With certificates on every wire, and a key for whoever asks.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start a part again that ends by itself; else all of it ends.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=1, help="How long a part may take to start, in s.")] = 600.0,
) -> None:
    """Starts Redis, both models' workers and the router, and stops them on Ctrl-C."""
    console = err()
    if http and not can_be_started():
        raise invalid("--http", "the gateway's packages are missing.", "Install rstitch[http], or say --no-http.")
    if shared is not None and slm_workers > 1:
        raise invalid("--slm-workers", "a shared model's workers are both models'.", "Say --llm-workers alone.")
    if shared is not None and (slm_model or llm_model):
        raise invalid("--shared", "a shared model is both models.", "Name it alone, or name two models.")
    slm = WorkerOptions(slm_model, slm_device or device, dtype, None, batch_invariant, slm_arg or ())
    llm = WorkerOptions(shared or llm_model, llm_device or device, dtype, None, batch_invariant, llm_arg or ())
    check_worker("slm", slm)
    check_worker("llm", llm)
    check_flags("--router-arg", router_arg or ())
    stack = LocalStack(
        slm,
        llm,
        RouterOptions(port, args=router_arg or ()),
        _gateway(http_listen, served_model_name or ()) if http else None,
        num_slm=slm_workers,
        num_llm=llm_workers,
        num_routers=routers,
        metrics_port=metrics_port,
        shared_layers=shared is not None,
        redis_url=redis,
        env={"OTEL_EXPORTER_OTLP_ENDPOINT": otlp_endpoint} if otlp_endpoint else None,
        timeout_s=timeout,
        secure=secure,
        durable=restart,
    )
    with stopped_by_signals():
        start(stack, console)
        try:
            _introduce(stack, console, secure=secure, is_usual=port == ROUTER_PORT)
            supervisor = Supervisor(stack.parts, _saying(console))
            while True:
                supervisor.look() if restart else _check(stack)
                time.sleep(_WATCH_S)
        except KeyboardInterrupt:
            pass
        finally:
            stack.stop(lambda part: console.print(f"stopping {part}", style="dim"))


def _gateway(listen: str, names: Sequence[str]) -> GatewayOptions:
    try:
        host, _, port = host_and_port(listen).rpartition(":")
    except ValueError as error:
        raise invalid("--http-listen", str(error), f"Write HOST:PORT, such as {GATEWAY_ADDRESS}.") from None
    return GatewayOptions(f"{host}:{port if int(port) else free_port()}", names)


def _introduce(stack: LocalStack, console: Console, *, secure: bool, is_usual: bool) -> None:
    """Says where the parts are, and what to do next."""
    where = "" if is_usual else f" --router {stack.router_address}"
    slm, llm = stack.worker_addresses
    console.print(
        f"router [bold]{stack.router_address}[/], SLM {slm}, LLM {llm}, {without_secrets(stack.redis_url)}",
        soft_wrap=True,
    )
    others = [part for part in stack.parts if part.name[-1].isdigit()]
    if others:
        console.print(", ".join(f"{part.name} {part.address}" for part in others), soft_wrap=True)
        console.print(f"all workers: [bold]rstitch status{where}[/]", soft_wrap=True)
    if secure:
        shown = stack.credentials.as_environment()
        told = " ".join(f"{name}={value}" for name, value in shown.items())
        console.print(f"who asks needs a key and a certificate: [bold]export {told}[/]", soft_wrap=True)
    if stack.has_gateway:
        scheme = "https" if secure else "http"
        told = f"page and OpenAI's API: [bold]{scheme}://{stack.gateway.address}[/] (/v1, model rstitch)"
        console.print(told, soft_wrap=True)
    console.print(f'ask:  [bold]rstitch ask{where} "{PROPOSED.question}"[/]', soft_wrap=True)
    console.print(f"logs: [bold]rstitch logs{where} -f[/] ({stack.folder})", soft_wrap=True)
    console.print("Ctrl-C stops everything", style="dim")


def _check(stack: LocalStack) -> None:
    """Raises StackError if a part has ended, and says how that need not end all of them."""
    try:
        stack.check()
    except StackError as error:
        error.remedy = error.remedy or "All of it ends; with --restart it would be started again."
        raise


def _saying(console: Console) -> Callable[[str, str, Sequence[str]], None]:
    """Makes what tells of a part that is started again: a line, below the end of its log where there is one."""

    def say(part: str, told: str, log: Sequence[str]) -> None:
        for line in last_lines(log, _NUM_LOG_LINES):
            console.print(Text(f"  {line}", style="dim"), soft_wrap=True)
        console.print(Text(f"{part} {told}", style="yellow" if log else "green"), soft_wrap=True)

    return say
