"""Mathematics is judged by math-verify, in a process of its own: an answer may be an expression that never ends.

Its own time limit is a signal and cannot stop one long operation; killing the process can.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

from evals.checking.checker import Checker, Verdict
from evals.tasks.data import Problem
from rstitch.errors import invalid

_ROOT = Path(__file__).parents[2]
_PATIENCE_S = 30.0
_MAX_MEMORY_BYTES = 4 << 30
# A reply is short, whatever was asked.
_MAX_SHOWN = 500


class MathCheck(Checker):
    """One math-verify process; questions wait for each other."""

    def __init__(self, patience_s: float = _PATIENCE_S) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise invalid("--task", "math-verify is not installed.", "pip install 'rstitch[evals]'")
        self._patience_s = patience_s
        self._lock = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None

    async def check(self, problem: Problem, text: str) -> Verdict:
        async with self._lock:
            process = self._process = self._process or await _start()
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps([problem.reference, text]).encode() + b"\n")
            try:
                line = await asyncio.wait_for(process.stdout.readline(), self._patience_s)
            except TimeoutError:
                line = b""
            if not line:
                await self._stop()
                return Verdict(False, detail="math-verify came to no end")
        return Verdict(**json.loads(line))

    async def close(self) -> None:
        async with self._lock:
            await self._stop()

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            if process.returncode is None:
                process.kill()
            await process.wait()
            process._transport.close()  # type: ignore[attr-defined] # or it is collected with the loop, unclosed


async def _start() -> asyncio.subprocess.Process:
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "evals.checking.math",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip


def judge(reference: str, text: str) -> dict[str, Any]:
    """The fields of a Verdict. A reference without dollar signs is taken as mathematics."""
    from math_verify import parse, verify

    gold = parse(reference if "$" in reference else f"${reference}$")
    found = parse(text)
    if not gold:
        return {"correct": False, "detail": f"the reference {reference[:_MAX_SHOWN]!r} cannot be read"}
    return {"correct": bool(verify(gold, found)), "answer": str(found[-1])[:_MAX_SHOWN] if found else ""}


def main() -> None:
    """A question a line in, a verdict a line out."""
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY_BYTES, _MAX_MEMORY_BYTES))
    for line in sys.stdin:
        reference, text = json.loads(line)
        try:
            verdict = judge(reference, text)
        except (MemoryError, RecursionError, ValueError, TypeError, ArithmeticError, AttributeError) as error:
            verdict = {"correct": False, "detail": f"math-verify failed: {error!r}"[:_MAX_SHOWN]}
        print(json.dumps(verdict), flush=True)


if __name__ == "__main__":
    main()
