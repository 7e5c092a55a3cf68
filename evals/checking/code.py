"""Code is right if its tests pass: the program is put together here and run in the sandbox."""

from __future__ import annotations

import asyncio
import re

from evals.checking import sandbox
from evals.checking.checker import Checker, Verdict
from evals.tasks.data import Problem, fill
from evals.tasks.task import Code

_BLOCK = re.compile(r"```[ \t]*(?:python|py|python3)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
_DEFINES = re.compile(r"^(?:def|class|async|import|from|@)\b", re.MULTILINE)


class CodeCheck(Checker):
    """Runs each answer with its tests, in a thread that waits for the sandbox."""

    def __init__(self, code: Code) -> None:
        sandbox.isolation()  # refused here rather than at the first answer
        self._code = code

    async def check(self, problem: Problem, text: str) -> Verdict:
        code = extract(text)
        program = fill(self._code.before, problem.row) + ("\n" if _DEFINES.search(code) else "") + code
        program = f"{program}\n{fill(self._code.after, problem.row)}\n"
        outcome = await asyncio.to_thread(sandbox.run, program, self._code.timeout_s)
        return Verdict(outcome.passed, code, outcome.detail)


def extract(text: str) -> str:
    """The first block of code that defines something, else the first, else (a plain continuation) the text."""
    blocks: list[str] = _BLOCK.findall(text)
    return next((block for block in blocks if _DEFINES.search(block)), blocks[0] if blocks else text)
