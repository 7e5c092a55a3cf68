"""Laws of two workers on one CPU: each takes all cores while the other rests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from model_worker import main
from model_worker.engine.forward.loader import adopt
from model_worker.settings import WorkerSettings
from model_worker.spare_cores import SpareCores
from rstitch.errors import RstitchError
from rstitch.v1 import common_pb2
from tests.support.engines import CONFIGS, make_model

LLM = main.Role("llm", common_pb2.MODEL_LLM, WorkerSettings)


@pytest.fixture
def taken() -> dict[str, list[int]]:
    """What each side set its threads to."""
    return {"slm": [], "llm": []}


@pytest.fixture
def pair(tmp_path: Path, taken: dict[str, list[int]]) -> Iterator[tuple[SpareCores, SpareCores]]:
    def side(role: str, set_threads: Callable[[int], None]) -> SpareCores:
        return SpareCores(tmp_path / "cores", "slm" if role == "slm" else "llm", 2, 4, set_threads)

    sides = side("slm", taken["slm"].append), side("llm", taken["llm"].append)
    yield sides
    for each in sides:
        each.close()


def test_who_is_alone_takes_all_and_says_so_once(
    pair: tuple[SpareCores, SpareCores], taken: dict[str, list[int]]
) -> None:
    for side in pair:
        side.begin()
        side.begin()
        side.end()
    assert taken == {"slm": [4], "llm": [4]}


def test_while_both_have_work_each_has_its_share(
    pair: tuple[SpareCores, SpareCores], taken: dict[str, list[int]]
) -> None:
    slm, llm = pair
    slm.begin()
    llm.begin()
    slm.begin()  # its next step: the LLM has come
    assert taken == {"slm": [4, 2], "llm": [2]}
    slm.end()
    llm.begin()
    assert taken == {"slm": [4, 2], "llm": [2, 4]}


def test_a_worker_that_dies_frees_its_cores(tmp_path: Path) -> None:
    taken: list[int] = []
    slm, llm = (SpareCores(tmp_path / "cores", role, 1, 2, taken.append) for role in ("slm", "llm"))
    slm.begin()
    slm.close()
    llm.begin()
    llm.close()
    assert taken == [2, 2]


def test_cores_are_shared_only_by_large_models_that_have_some_to_spare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = adopt(make_model(CONFIGS["llama"], 0), 64)
    settings = WorkerSettings(
        model="m", listen="127.0.0.1:0", threads=1, share_cores=str(tmp_path / "cores"), _cli_parse_args=False
    )
    monkeypatch.setattr(main.os, "sched_getaffinity", lambda _: {0, 1})
    assert main._cores(LLM, settings, loaded) is None  # a small model
    monkeypatch.setattr(main, "_LARGE_BYTES", 1)
    for unlike in ({"threads": 2}, {"share_cores": ""}, {"device": "cuda:0"}):
        assert main._cores(LLM, settings.model_copy(update=unlike), loaded) is None
    cores = main._cores(LLM, settings, loaded)
    assert cores is not None
    cores.close()
    wrong = settings.model_copy(update={"share_cores": "/nowhere/at/all"})
    with pytest.raises(RstitchError, match="--share-cores"):
        main._cores(LLM, wrong, loaded)
