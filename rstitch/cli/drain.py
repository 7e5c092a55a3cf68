"""`rstitch drain WORKER`: lets a worker run empty, so that it can be stopped and nobody notices."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated

import typer
from rich.console import Console

from rstitch.cli.common import FAILED, Json, Router, command, err, out, print_error, print_json
from rstitch.cli.durations import seconds
from rstitch.client.plain import as_dict
from rstitch.client.sync import Client
from rstitch.client.types import WorkerDrain
from rstitch.credentials import Credentials
from rstitch.errors import DeadlineExceeded, Unavailable
from rstitch.limits import ROUTER_ADDRESS

_AGAIN_S = 0.5


@command
def drain(
    worker: Annotated[str, typer.Argument(help="Its id or address, as `rstitch status` shows them.")],
    within: Annotated[str, typer.Option(metavar="TIME", help="Wait so long at most: 60s, 2m.")] = "60s",
    undo: Annotated[bool, typer.Option("--undo", help="Let it take new sessions again.")] = False,
    router: Router = ROUTER_ADDRESS,
    access: Credentials = Credentials(),
    json: Json = False,
) -> None:
    """Gives a worker no new sessions and waits until its answers are done or have moved; exit code 0 only then."""
    bound_s = seconds("--within", within)
    with Client(router, credentials=access) as client, _Progress(err(), worker) as tell:
        if undo:
            told = next(client.drain_worker(worker, undo=True, timeout_s=bound_s), None)
        else:
            told = _wait(client, worker, bound_s, tell)
    if json:
        print_json({"worker": worker, "draining": not undo} | (as_dict(told) if told is not None else {}))
    if undo:
        if not json:
            out().print(f"{worker} takes new sessions again", markup=False)
        return
    if told is None or not told.is_empty:
        left = f"{_left(told)} left" if told is not None else "nothing heard of it"
        print_error(
            f"{worker} is not empty after {within}: {left}. It gets no new sessions; wait on with the same command, "
            "end it all the same (its answers go on elsewhere if there is another worker of its model), or --undo."
        )
        raise typer.Exit(FAILED)
    if not json:
        out().print(f"{worker} is empty: it can be stopped", markup=False)


def _wait(client: Client, worker: str, bound_s: float, tell: Callable[[WorkerDrain], None]) -> WorkerDrain | None:
    """Returns what was told last, once the worker is empty or the time is over; a router that goes is asked anew."""
    deadline, told = time.monotonic() + bound_s, None
    while (left_s := deadline - time.monotonic()) > 0:
        try:
            for told in client.drain_worker(worker, timeout_s=left_s):
                tell(told)
                if told.is_empty:
                    return told
        except DeadlineExceeded:
            break
        except Unavailable as error:
            if told is None or error.reason == "WORKER_UNAVAILABLE":
                raise
        time.sleep(min(_AGAIN_S, max(0.0, deadline - time.monotonic())))
    return told


def _left(told: WorkerDrain) -> str:
    return f"{told.num_running} runs, {told.num_streams} answers"


class _Progress:
    """Says how far it is: one line that changes on a terminal, a line for each change elsewhere; a context manager."""

    def __init__(self, console: Console, worker: str) -> None:
        self._console = console
        self._worker = worker
        self._said = ""
        self._status = console.status(f"{worker} ...") if console.is_terminal else None

    def __enter__(self) -> _Progress:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *raised: object) -> None:
        if self._status is not None:
            self._status.stop()

    def __call__(self, told: WorkerDrain) -> None:
        said = f"{self._worker}: {_left(told)} left"
        if self._status is not None:
            self._status.update(said)
        elif said != self._said:
            self._console.print(said, markup=False, soft_wrap=True)
        self._said = said
