"""Runs of an evaluation, made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evals.asking.record import Part, Record
from evals.asking.run_file import RunFile

CONFIGURATION = {
    "task": "tiny", "task_digest": "1", "data": "d", "data_digest": "2", "temperature": 0.0, "top_p": 0.0, "seed": 0,
    "max_new_tokens": 400, "slm": "tiny-slm", "llm": "tiny-llm", "concurrency": 1, "order": "interleaved",
}  # fmt: skip
PROVENANCE = {"commit": "c", "machine": "m", "python": "3", "command": "x", "day": "d"}


def record(system: str, problem: int, *, correct: bool = True, slm: int = 8, llm: int = 2, ms: float = 10) -> Record:
    usage = {
        "num_prompt_tokens": 5, "num_slm_tokens": slm, "num_llm_tokens": llm, "num_switches": 2,
        "total_time_us": int(1000 * ms), "time_to_first_token_us": 1000,
    }  # fmt: skip
    parts = tuple(part for part in (Part("slm", slm, "a" * slm), Part("llm", llm, "b" * llm)) if part.num_tokens)
    tokens = tuple(range(slm + llm))
    return Record(
        system, problem, str(problem), 0, 0, "s", "", correct, usage=usage, parts=parts, tokens=tokens,
        entropies=(0.01,) * len(tokens),
    )  # fmt: skip


def written(path: Path, *records: Record, **changed: Any) -> Path:
    with RunFile(path, CONFIGURATION | changed, PROVENANCE) as file:
        for each in records:
            file.append(each)
    return path


def pair_run(folder: Path) -> Path:
    """Twenty problems: LLM-only solves all but the last, the threshold all but the first two, four times as fast."""
    llm = [record("llm_only", i, correct=i != 19, slm=0, llm=20, ms=40) for i in range(20)]
    routed = [record("threshold:tau=0.02", i, correct=i > 1, ms=10) for i in range(20)]
    return written(folder / "run.jsonl", *llm, *routed)
