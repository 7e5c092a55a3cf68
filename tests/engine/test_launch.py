"""A launch waits for nothing: each read of a device's number by the host would make it wait until that is computed.

On a CPU such a read costs nothing and looks the same, so torch's own calls are watched here; tests marked gpu let the
device complain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from model_worker.engine.engine import Engine
from model_worker.engine.flight import Flight
from model_worker.engine.forward import attention_varlen, runner, sampling
from model_worker.engine.types import Handoff, Returns, RunRequest, Sampling, Signal
from tests.support.engines import Result, generate, make_engine, run_all
from tests.support.varlen import naive_varlen_attn

PROMPTS = [[7, 8, 9, 10, 11], [20, 21, 22] * 9, [50], [5, 250, 17, 130]]
# What gives the host a number of the device's, or has a shape that the device must compute first.
_READS = {
    *("item", "tolist", "numpy", "cpu", "nonzero", "argwhere", "unique", "masked_select", "equal", "allclose"),
    *("__bool__", "__int__", "__float__", "__index__", "is_nonzero", "repeat_interleave"),
}


class NoReads(TorchFunctionMode):
    """Forbids what would wait on a device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        assert name not in _READS, f"a launch reads a number: {name}"
        if name in ("__getitem__", "__setitem__"):
            places = args[1] if isinstance(args[1], tuple) else (args[1],)
            for place in places:
                assert not isinstance(place, list), "a list as an index is copied to the device, and waited for"
                assert not (isinstance(place, Tensor) and place.dtype == torch.bool), "how many places are there?"
        return func(*args, **(kwargs or {}))


@contextmanager
def seen_as_a_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lets steps take the way of a device: what they compute is measured there, and read when they are waited for."""

    @wraps(naive_varlen_attn)
    def naive(*args: Any, **kwargs: Any) -> Tensor:
        with torch._C.DisableTorchFunction():  # stands for one kernel
            return naive_varlen_attn(*args, **kwargs)

    def measure(self: Any, logits: Tensor) -> Callable[[], sampling.Choices]:
        results = sampling.measure(logits)
        return lambda: sampling.unpack(results, logits.shape[-1])

    launch = Engine.launch

    def watched(self: Engine) -> Flight:
        with NoReads():
            return launch(self)

    with monkeypatch.context() as patch:
        patch.setattr(attention_varlen, "varlen_attn", naive)
        patch.setattr(runner.Runner, "_measure", measure)
        patch.setattr(Engine, "launch", watched)
        yield


def _run(engine: Engine, requests: Iterable[RunRequest]) -> list[Result]:
    results = run_all(engine, requests)
    for result in results:
        if result.error is not None:
            raise result.error.__cause__ or result.error
    return results


@pytest.mark.parametrize("graphs", ["off", "on"])
def test_a_launch_reads_no_number(monkeypatch: pytest.MonkeyPatch, graphs: str) -> None:
    """Prompts in chunks, catch-up, decoding, drafts, draws, signals, pages that are copied."""
    with seen_as_a_device(monkeypatch):
        engine, model = make_engine(attention="varlen", graphs=graphs, max_batch_tokens=24, prefix_cache="share")
        expected = generate(model, PROMPTS[0], 8)
        requests = [
            RunRequest("greedy", 0, PROMPTS[0], max_tokens=8),
            RunRequest("drawn", 0, PROMPTS[1], Sampling(0.9, top_p=0.8, seed=4), max_tokens=6),
            RunRequest("catch-up", 0, PROMPTS[1]),
            RunRequest("asked", 0, PROMPTS[3], returns=Returns(5, True)),
            RunRequest("drafted", 0, PROMPTS[0], max_tokens=8, draft=expected[:5]),
            RunRequest("masked", 0, PROMPTS[0], max_tokens=3, masked_tokens=(5, 7)),
            RunRequest("masked otherwise", 0, PROMPTS[3], Sampling(0.9, seed=4), max_tokens=3, masked_tokens=(9,)),
            *(
                RunRequest(signal.value, 0, PROMPTS[3], max_tokens=4, handoff=Handoff(below=-1.0, signal=signal))
                for signal in (Signal.ENTROPY, Signal.MARGIN)
            ),
        ]
        results = _run(engine, requests)
        assert results[0].tokens == expected
        assert results[4].tokens == expected[:6]
        again = _run(engine, [RunRequest("same", 0, PROMPTS[1], max_tokens=3)])
        assert again[0].tokens == generate(model, PROMPTS[1], 3)
        masked = tuple(set(expected))  # all rows of a step, with a mask that is new and one that is known
        for _ in range(2):
            (alone,) = _run(engine, [RunRequest("alone", 0, PROMPTS[0], max_tokens=3, masked_tokens=masked)])
            assert alone.tokens == generate(model, PROMPTS[0], 3, masked=masked)


@pytest.mark.parametrize("read", [lambda x: x[0].item(), lambda x: x[x > 0], lambda x: bool(x.any()), lambda x: x[[0]]])
def test_a_read_within_a_launch_is_noticed(monkeypatch: pytest.MonkeyPatch, read: Callable[[Tensor], object]) -> None:
    with seen_as_a_device(monkeypatch):
        engine, _ = make_engine(attention="varlen")
        head = engine._runner._loaded.module.get_output_embeddings()
        head.register_forward_pre_hook(lambda _, inputs: read(inputs[0][0, 0]) and None)
        with pytest.raises(AssertionError, match=r"reads a number|index|places"):
            _run(engine, [RunRequest("s", 0, PROMPTS[0], max_tokens=2)])
