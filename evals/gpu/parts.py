"""The parts of `make gpu`, in the order of what they tell: if time runs out, the last are missing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

_PYTEST = ["-m", "pytest", "-q", "-W", "default", "-p", "no:cacheprovider", "--timeout", "60"]
# Laws that go through every kernel and every kind of step: both models alone, tau, hysteresis, batches.
_LAWS = ["tests/laws/test_stitching.py", "tests/laws/test_batching.py"]


@dataclass(frozen=True, slots=True)
class Part:
    """A command that is stopped after `limit_s`; `figures` is the file it leaves in the folder, if any."""

    name: str
    about: str
    limit_s: int
    command: Sequence[str]
    figures: str = ""
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Which models are measured, by their names in `evals.bench.shapes`, and how much of them."""

    slm: str
    llms: tuple[str, ...]
    batches: str
    contexts: str
    tokens: int
    traces: int


SIZES = Sizes("qwen2.5-1.5b", ("qwen2.5-7b",), "1,16,64", "512", 200, 16)
LARGE = Sizes("qwen2.5-1.5b", ("qwen2.5-14b", "qwen2.5-32b"), "1,16", "512", 120, 16)
DRY = Sizes("tiny-8m", ("tiny-50m",), "1,4", "64", 24, 4)


def parts(device: str, sizes: Sizes, folder: Path) -> list[Part]:
    """Makes the list for a device such as cuda:0; on a CPU every part runs too, Triton's kernels in its interpreter."""
    models = [argument for name in (sizes.slm, *sizes.llms) for argument in ("--model", name)]
    # Large models take their time to draw and to capture.
    more = len(sizes.llms)
    is_gpu = device.startswith("cuda")
    interpreted = {} if is_gpu else {"TRITON_INTERPRET": "1"}
    # fmt: off
    return [
        Part("kernels", "each kernel beside float64, and beside the time that its memory takes", 90,
             _python("evals.gpu.kernels", "--device", device, "--json", folder / "kernels.json"), "kernels.json",
             interpreted),
        Part("anatomy", "what a decode step is made of", 60,
             _python("evals.gpu.anatomy", "--device", device, "--shape", sizes.slm, "--json", folder / "anatomy.json"),
             "anatomy.json"),
        Part("engine", "steps of random weights beside the memory's bandwidth", 110 * more,
             _python("evals.bench", "engine", "--device", device, *models, "--steps", 16, "--batches", sizes.batches,
                     "--contexts", sizes.contexts, "--json", folder / "engine.json"), "engine.json"),
        Part("replay", "whole answers at a given LLM share, beside the LLM alone", 120 * more,
             _python("evals.bench", "replay", "--device", device, "--slm-shape", sizes.slm,
                     "--llm-shape", *sizes.llms, "--tokens", sizes.tokens, "--num-traces", sizes.traces,
                     "--concurrency", "1,16" if sizes is not DRY else "1,4", "--rounds", 1,
                     "--json", folder / "replay.json"), "replay.json"),
        Part("tests", "the tests that need a CUDA device", 80, [sys.executable, *_PYTEST, "-m", "gpu", "tests/engine"]),
        Part("laws", "the served system in float32, beside transformers in float64", 100 if is_gpu else 200,
             [sys.executable, *_PYTEST, "-n", "0", *_LAWS],
             env={"RSTITCH_TEST_DEVICE": device, "RSTITCH_TEST_DTYPE": "float32"}),
    ]
    # fmt: on


def _python(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", module, *map(str, arguments)]
