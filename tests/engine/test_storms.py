"""Storms of runs over engines with little room: what goes back, forks, is evicted or broken off, tokens are right."""

from __future__ import annotations

import copy
import functools
import random
from typing import Any

import pytest
import torch

from model_worker.engine.bookkeeping.states import LEAST_STATES
from model_worker.engine.bookkeeping.windows import MARGIN
from tests.support.engines import make_engine_of
from tests.support.pairs import make_model
from tests.support.recurrent import RECURRENT
from tests.support.storm import SPOILT, Storm
from tests.support.windowed import WINDOW, WINDOWED

PATHS: list[dict[str, Any]] = [{"attention": "native"}, {"attention": "in-place"}, {"attention": "gather"}]
INVARIANT: dict[str, Any] = {"batch_invariant": True}  # which experts are not
SLOW_SEEDS = range(100, 130)


@functools.cache
def model_of(family: str) -> Any:
    return make_model((WINDOWED | RECURRENT)[family], 3)


def storm_of(family: str, rng: random.Random, *, spoils: bool, **limits: Any) -> Storm:
    model = copy.deepcopy(model_of(family))
    engine = make_engine_of(model, **limits)
    if spoils:
        with torch.inference_mode(False), torch.no_grad():
            model.get_input_embeddings().weight[SPOILT] = float("nan")
    return Storm(engine, model_of(family), rng, spoils)


def blow_windows(family: str, seed: int, num_runs: int) -> Storm:
    rng = random.Random(seed)
    size, most = rng.choice([4, 16, 64]), rng.choice([24, 60])
    rooms = -(-(WINDOW + MARGIN + size + most) // size) + rng.choice([0, 1, 3, 10])
    limits = {"num_pages": max(2 * rooms, 530 // size), "page_size": size, "max_batch_tokens": most}
    path = rng.choice(PATHS if family in ("gpt_oss", "llama4") else [*PATHS, INVARIANT])
    storm = storm_of(family, rng, spoils=seed % 2 == 1, num_window_pages=rooms, **limits, **path)
    storm.blow(num_runs)
    return storm


def blow_states(family: str, seed: int, num_runs: int) -> Storm:
    rng = random.Random(seed)
    size = rng.choice([4, 16, 64])
    limits = {"num_pages": 700 // size, "page_size": size, "max_batch_tokens": rng.choice([24, 60])}
    num_states = LEAST_STATES + rng.choice([0, 1, 3, 20])
    storm = storm_of(family, rng, spoils=seed % 2 == 1, num_states=num_states, **limits)
    storm.blow(num_runs)
    return storm


@pytest.mark.parametrize(("family", "seed"), [("gemma3", 5), ("mistral", 2)])
def test_layers_that_see_windows(family: str, seed: int) -> None:
    storm = blow_windows(family, seed, num_runs=50)
    assert storm.num_checked > 100, "hardly a token was looked at"


@pytest.mark.parametrize(("family", "seed"), [("lfm2", 1), ("qwen3_5", 2)])
def test_layers_that_keep_states(family: str, seed: int) -> None:
    storm = blow_states(family, seed, num_runs=50)
    assert storm.num_checked > 100, "hardly a token was looked at"


@pytest.mark.soak
@pytest.mark.parametrize("seed", SLOW_SEEDS)
def test_many_storms(seed: int) -> None:
    blow_windows(random.Random(seed).choice(sorted(WINDOWED)), seed, num_runs=80)
    blow_states(random.Random(seed).choice(sorted(RECURRENT)), seed, num_runs=80)
