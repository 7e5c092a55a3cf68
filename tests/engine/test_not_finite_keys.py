"""Keys or values alone that are not finite, in one layer and of one token: they reach no other session.

Such a token's hidden state may stay finite, so that no distribution tells of it; of keys in the last layer nothing else
does, either.
"""

from __future__ import annotations

from typing import Any, Literal

import pytest

from model_worker.engine.engine import Engine
from model_worker.engine.errors import ForwardFailed
from model_worker.engine.observing import Observe
from model_worker.engine.types import RunRequest
from tests.support.engines import Result, collect, generate, make_engine_of, run_all
from tests.support.overflowing import make_overflowing

BROKEN = 299
PATHS: dict[str, dict[str, Any]] = {
    "native": {"attention": "native"},
    "in place": {"attention": "in-place"},
    "gathered": {"attention": "gather"},
    "batch-invariant": {"batch_invariant": True},
    "batch-invariant gathered": {"batch_invariant": True, "attention": "gather"},
}
KINDS: dict[str, tuple[int, Literal["k", "v"], Literal["NaN", "inf", "-inf"]]] = {
    "NaN in the last keys": (1, "k", "NaN"),
    "inf in the first keys": (0, "k", "-inf"),
    "inf in the last values": (1, "v", "inf"),
}
SHORT, LONG = [7, 8, 9], list(range(40, 52))


def make_engine(kind: str, path: str) -> tuple[Engine, Any]:
    layer, part, bad = KINDS[kind]
    model, broken = make_overflowing(BROKEN, layer, part, bad)
    sizes = {"num_pages": 24, "page_size": 4, "context_length": 48, "max_batch_tokens": 16}
    return make_engine_of(broken, **sizes, **PATHS[path]), model


def drain(engine: Engine, results: dict[int, Result]) -> None:
    while not engine.is_idle:
        collect(engine, results)
    engine.check_integrity()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_others_are_as_alone(kind: str, path: str) -> None:
    """Beside it, in lanes around it, and on its pages when it has left: closed, cancelled, its draft rejected."""
    engine, model = make_engine(kind, path)
    truths = {len(prompt): generate(model, prompt, 12) for prompt in (SHORT, LONG)}
    broken = [20, 21, BROKEN, 22, 23]
    ways = {
        "catch-up": RunRequest("c", 0, broken),
        "one token": RunRequest("c", 0, [BROKEN]),
        "prompt": RunRequest("c", 0, [*broken, *range(60, 80)], max_tokens=3),
        "draft": RunRequest("c", 0, SHORT, max_tokens=9, draft=[*truths[3][:2], BROKEN, 5]),
        "observed": RunRequest("c", 0, broken, observe=Observe(1, -1.0)),
    }
    for round_, (way, request) in enumerate(ways.items()):
        results: dict[int, Result] = {}
        checked: dict[int, list[int]] = {}

        def ask(name: str, prompt: list[int]) -> None:
            run = engine.submit(RunRequest(f"{name}{round_}", 0, prompt, max_tokens=12))  # noqa: B023
            results[run], checked[run] = Result(), truths[len(prompt)]  # noqa: B023

        ask("short", SHORT)
        bad = engine.submit(request)
        results[bad] = Result()
        ask("long", LONG)
        for _ in range(3):
            collect(engine, results)
        if way == "prompt":
            engine.cancel(bad)
        drain(engine, results)
        if way != "one token":  # that one stays, between those that come
            engine.close_session("c")
        for number in range(4):
            ask(f"after{number}", SHORT if number % 2 else LONG)
        drain(engine, results)
        for run, truth in checked.items():
            assert (results[run].error, results[run].tokens) == (None, truth), way
        if way == "draft":
            tokens, error = results[bad].tokens, results[bad].error
            assert tokens == truths[3][: len(tokens)]
            assert error is None or isinstance(error, ForwardFailed)


@pytest.mark.parametrize("path", ["in place", "batch-invariant", "batch-invariant gathered"])
@pytest.mark.parametrize("kind", KINDS)
def test_where_others_slots_are_read_nothing_is_left_behind(kind: str, path: str) -> None:
    engine, _ = make_engine(kind, path)
    for request in (
        RunRequest("a", 0, [20, 21, BROKEN, 22]),
        RunRequest("b", 0, [*range(60, 75), BROKEN, *range(60, 75)], max_tokens=2),
        RunRequest("c", 0, [20, 21, 22, BROKEN], max_tokens=2),
        RunRequest("d", 0, [20, 21, BROKEN, 22], observe=Observe(1, -1.0)),
    ):
        (result,) = run_all(engine, [request])
        assert request.session_id == "a" or isinstance(result.error, ForwardFailed)
        engine._clean()
        cache = engine._runner._cache
        assert all(bool(tensor.isfinite().all()) for tensor in (*cache.keys, *cache.values)), request.session_id
