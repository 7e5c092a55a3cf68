"""The stack that an evaluation asks: a running one, or one of its own."""

from __future__ import annotations

import argparse
from contextlib import ExitStack

from rich.console import Console

from evals.asking.flags import positive
from evals.asking.stacks import add_flag_arguments
from rstitch.cli.progress import start
from rstitch.local.stack import LocalStack


def add_stack_arguments(parser: argparse.ArgumentParser) -> None:
    """Which router to ask, or what to start."""
    parser.add_argument("--router", metavar="HOST:PORT", help="a running router (default: start a stack)")
    parser.add_argument(
        "--slm", "--slm-model", metavar="MODEL", help="folder or hub id of the SLM (default: the bundled one)"
    )
    parser.add_argument(
        "--llm", "--llm-model", metavar="MODEL", help="folder or hub id of the LLM (default: the bundled one)"
    )
    parser.add_argument("--device", default="cpu", help="of both models: cpu or cuda:N (default cpu)")
    parser.add_argument("--dtype", help="float32 or bfloat16 (default: float32 on CPU, the model's on CUDA)")
    parser.add_argument("--threads", type=positive, help="CPU threads of each model (default: half of the machine's)")
    add_flag_arguments(parser)


def router_of(options: argparse.Namespace, held: ExitStack, console: Console) -> str:
    """The address of the router to ask; a stack that was started ends with `held`. Raises: StackError."""
    if options.router:
        return str(options.router)
    stack = LocalStack(
        slm_model=options.slm,
        llm_model=options.llm,
        device=options.device,
        dtype=options.dtype,
        threads=options.threads,
        router_args=options.router_arg,
        worker_args=options.worker_arg,
        slm_args=options.slm_arg,
        llm_args=options.llm_arg,
    )
    start(stack, console)
    held.callback(stack.stop)
    return stack.router_address
