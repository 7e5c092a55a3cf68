"""Can one request stop the router? `python -m tests.security.freeze`: texts as long as the wire lets in, sent at once.

Beside them somebody asks for the router's status every 50 ms and for short answers. Reported are the worst of each, how
long a refusal took, how long the router's event loop was held in one piece, and what its memory grew by. Then one legal
prompt that is long (`--legal`), beside an answer that is being written: how long that waited for its next token.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer

from rstitch.errors import from_rpc_error
from rstitch.local.stack import LocalStack, RouterOptions, WorkerOptions
from rstitch.v1 import router_pb2, router_pb2_grpc
from training.commands import SEVERAL, run

_MIB = 1 << 20
_MODULE = "tests.support.probed_router"


def texts(num_bytes: int) -> dict[str, router_pb2.GenerateRequest]:
    """Long inputs of each kind, by name."""
    words = ("stones " * (num_bytes // 7 + 1))[:num_bytes]
    chat = router_pb2.Chat(messages=[router_pb2.ChatMessage(role="user", content=words)])
    parts = router_pb2.Chat(messages=[router_pb2.ChatMessage(role="user", text_parts=[""] * (num_bytes // 2))])
    short = [router_pb2.ChatMessage(role="user", content="a")] * (num_bytes // 11)
    return {
        "words": router_pb2.GenerateRequest(text=words),
        "one letter": router_pb2.GenerateRequest(text="a" * num_bytes),
        "digits": router_pb2.GenerateRequest(text="1 " * (num_bytes // 2)),
        "spaces": router_pb2.GenerateRequest(text=" " * num_bytes),
        "emoji": router_pb2.GenerateRequest(text="👩" * (num_bytes // 4)),
        "ids": router_pb2.GenerateRequest(tokens=router_pb2.TokenIds(ids=[7] * num_bytes)),
        "chat": router_pb2.GenerateRequest(chat=chat),
        "empty parts": router_pb2.GenerateRequest(chat=parts),
        "messages": router_pb2.GenerateRequest(chat=router_pb2.Chat(messages=short)),
    }


@dataclass
class Seen:
    """What one attack did to everybody else."""

    name: str
    status_s: list[float] = field(default_factory=list)
    answer_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    outcomes: set[str] = field(default_factory=set)
    rss_before: int = 0
    rss_peak: int = 0
    rss_after: int = 0
    held: list[tuple[float, float]] = field(default_factory=list)  # by the clock, and of the loop's own thread

    def line(self) -> str:
        worst = {
            "status": max(self.status_s, default=0),
            "answer": max(self.answer_s, default=0),
            "refused": max(self.refused_s, default=0),
            "held": max((wall for wall, _ in self.held), default=0),
            "held own": max((own for _, own in self.held), default=0),
        }
        times = "  ".join(f"{name} {1000 * value:5.0f} ms" for name, value in worst.items())
        peak, after = ((rss - self.rss_before) / _MIB for rss in (self.rss_peak, self.rss_after))
        grown = f"+{peak:.0f} MiB, after +{after:.0f}"
        return f"{self.name:12} {times}  memory {grown}  {', '.join(sorted(self.outcomes))}"


class Freeze:
    """A router under attack, and who looks on."""

    def __init__(self, address: str, pid: int, probe: Path) -> None:
        options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        self._channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(2)]
        self.stub, self._attacking = map(router_pb2_grpc.RouterServiceStub, self._channels)
        self._pid, self._probe = pid, probe

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()

    def rss(self) -> int:
        return int(Path(f"/proc/{self._pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    async def attack(self, name: str, requests: list[router_pb2.GenerateRequest]) -> Seen:
        """Sends all at once, and looks on until the last is answered."""
        seen, done = Seen(name), asyncio.Event()
        began = time.monotonic()
        seen.rss_before = seen.rss_peak = self.rss()
        lookers = [asyncio.create_task(look(seen, done)) for look in (self._status, self._answers, self._memory)]
        data = [request.SerializeToString() for request in requests]
        call = self._attacking_bytes()
        await asyncio.gather(*(self._refused(seen, call, each) for each in data))
        await asyncio.sleep(0.3)
        done.set()
        await asyncio.gather(*lookers)
        seen.rss_after = self.rss()
        seen.held = [held for at, *held in self.held() if at >= began]  # type: ignore[misc]
        return seen

    def _attacking_bytes(self) -> Any:
        return self._channels[1].unary_stream("/rstitch.v1.RouterService/Generate")

    async def _refused(self, seen: Seen, call: Any, data: bytes) -> None:
        sent = time.monotonic()
        try:
            async for _ in call(data, timeout=120):
                pass
            seen.outcomes.add("answered")
        except grpc.aio.AioRpcError as error:
            seen.outcomes.add(from_rpc_error(error).reason)
        seen.refused_s.append(time.monotonic() - sent)

    async def _status(self, seen: Seen, done: asyncio.Event) -> None:
        while not done.is_set():
            sent = time.monotonic()
            await self.stub.GetStatus(router_pb2.GetStatusRequest(), timeout=120)
            seen.status_s.append(time.monotonic() - sent)
            await asyncio.sleep(0.05)

    async def _answers(self, seen: Seen, done: asyncio.Event) -> None:
        while not done.is_set():
            sent = time.monotonic()
            async for _ in self.stub.Generate(router_pb2.GenerateRequest(text="1 + 2", max_new_tokens=8), timeout=120):
                pass
            seen.answer_s.append(time.monotonic() - sent)

    async def _memory(self, seen: Seen, done: asyncio.Event) -> None:
        while not done.is_set():
            seen.rss_peak = max(seen.rss_peak, self.rss())
            await asyncio.sleep(0.01)

    def held(self) -> list[tuple[float, ...]]:
        """When the loop was held, for how long by the clock, and how long by its own thread."""
        return [tuple(map(float, line.split())) for line in self._probe.read_text().splitlines()]

    async def legal(self, num_tokens: int) -> str:
        """One long prompt that is answered, beside an answer that is being written."""
        gaps: list[float] = []
        ready, done = asyncio.Event(), asyncio.Event()

        async def other() -> None:
            while not done.is_set():
                policy = router_pb2.Policy(slm_only=router_pb2.SlmOnly())
                request = router_pb2.GenerateRequest(text="one", max_new_tokens=400, policy=policy)
                last = 0.0
                async for response in self.stub.Generate(request):
                    now = time.monotonic()
                    if response.WhichOneof("event") == "chunk":
                        if last:
                            gaps.append(now - last)
                        last = now
                        ready.set()
                    if done.is_set():
                        break

        task = asyncio.create_task(other())
        await ready.wait()
        await asyncio.sleep(0.5)
        alone = max(gaps)
        gaps.clear()
        began = time.monotonic()
        ids = [5 + index % 250 for index in range(num_tokens)]
        policy = router_pb2.Policy(slm_only=router_pb2.SlmOnly())
        results = []
        words = "the quick brown fox " * (num_tokens // 5)
        for request in (
            router_pb2.GenerateRequest(tokens=router_pb2.TokenIds(ids=ids), max_new_tokens=1, policy=policy),
            router_pb2.GenerateRequest(text=words[: num_tokens * 2], max_new_tokens=1, policy=policy),
            router_pb2.GenerateRequest(
                chat=router_pb2.Chat(messages=[router_pb2.ChatMessage(role="user", content=words[: num_tokens * 2])]),
                max_new_tokens=1,
                policy=policy,
            ),
        ):
            session_id, num = "", 0
            try:
                async for response in self.stub.Generate(request, timeout=300):
                    if response.HasField("started"):
                        session_id, num = response.started.session_id, response.started.num_prompt_tokens
                await self.stub.GetTrajectory(router_pb2.GetTrajectoryRequest(session_id=session_id))
            except grpc.aio.AioRpcError as error:
                results.append(from_rpc_error(error).message)
            else:
                results.append(str(num))
        held = [own for at, *own in self.held() if at >= began]
        done.set()
        with suppress(grpc.aio.AioRpcError):
            await task
        worst = [max((each[index] for each in held), default=0) for index in (0, 1)]
        return (
            f"prompts of {', '.join(results)} tokens in {time.monotonic() - began:.1f} s: others waited "
            f"{1000 * max(gaps):.0f} ms (before: {1000 * alone:.0f}); the loop was held {1000 * worst[0]:.0f} ms, "
            f"{1000 * worst[1]:.0f} of its own"
        )


def long_pair(folder: Path, context_length: int) -> tuple[WorkerOptions, WorkerOptions]:
    """A random pair with a long context."""
    from tests.support.pairs import save_model

    args = ("--num-pages", str(context_length // 4), "--measure-ms", "100")
    made = []
    for seed, role in enumerate(("slm", "llm"), 1):
        path = save_model(folder / role, "llama", seed)
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | {"max_position_embeddings": context_length}))
        made.append(WorkerOptions(str(path), args=args))
    return made[0], made[1]


async def _main(stack: LocalStack, probe: Path, work: Callable[[Freeze], Awaitable[None]]) -> None:
    pid = stack.router.process._process.pid  # type: ignore[union-attr]
    freeze = Freeze(stack.router_address, pid, probe)
    await freeze.attack("nothing", [])
    try:
        await work(freeze)
    finally:
        await freeze.close()


def main(arguments: Sequence[str] | None = None) -> int:
    return run(_freeze, "python -m tests.security.freeze", __doc__, arguments)


def _freeze(
    mib: Annotated[float, typer.Option(help="Of each text.")] = 15,
    at_once: Annotated[int, typer.Option(help="How many of them.")] = 6,
    legal: Annotated[int, typer.Option(help="Tokens of a legal prompt; 0: only the attacks.")] = 0,
    only: Annotated[list[str] | None, typer.Option(metavar=f"NAME{SEVERAL}", help="Names of attacks.")] = None,
) -> None:
    async def attacks(freeze: Freeze) -> None:
        for name, request in texts(int(mib * _MIB)).items():
            if not only or name in only:
                seen = await freeze.attack(name, [request] * at_once)
                print(seen.line(), f" load {os.getloadavg()[0]:.1f}", flush=True)

    async def ask(freeze: Freeze) -> None:
        print(await freeze.legal(legal), f" load {os.getloadavg()[0]:.1f}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / "probe"
        workers = long_pair(Path(folder), legal + 2000) if legal else (WorkerOptions(), WorkerOptions())
        router = RouterOptions(module=_MODULE)
        with LocalStack(*workers, router, env={"RSTITCH_PROBE": str(probe)}) as stack:
            asyncio.run(_main(stack, probe, ask if legal else attacks))


if __name__ == "__main__":
    sys.exit(main())
