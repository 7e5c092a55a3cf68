"""`rstitch drain` and `rstitch status`, before a scripted router."""

from __future__ import annotations

import json

import grpc
import pytest

from rstitch.client import AsyncClient, DeadlineExceeded, NotFound
from rstitch.errors import RstitchError
from rstitch.v1 import router_pb2 as pb
from tests.cli.conftest import Run
from tests.support.fake_router import FakeRouter
from tests.support.scripted_answer import LLM, SLM

_BUSY, _LESS = (pb.DrainWorkerResponse(num_running=num, num_streams=2) for num in (2, 1))
_EMPTY = pb.DrainWorkerResponse(is_empty=True)
_GONE = RstitchError(grpc.StatusCode.UNAVAILABLE, "ROUTER_DRAINING", "the router is being stopped.")
_NOBODY = RstitchError(grpc.StatusCode.NOT_FOUND, "WORKER_UNKNOWN", "there is no worker 'x'; there are slm-0.")


def test_drain_tells_how_far_it_is_and_ends_well_once_nothing_is_left(run: Run, router: FakeRouter) -> None:
    router.drains = [[_BUSY, _LESS, _LESS, _EMPTY]]
    result = run("drain", "slm-0", "--within", "2m")
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        "slm-0: 2 runs, 2 answers left",
        "slm-0: 1 runs, 2 answers left",
        "slm-0: 0 runs, 0 answers left",
    ]
    assert result.stdout == "slm-0 is empty: it can be stopped\n"
    assert [(request.worker_id, request.undo) for request in router.drained] == [("slm-0", False)]


def test_at_its_bound_it_says_what_is_left_and_what_to_do(run: Run, router: FakeRouter) -> None:
    router.drains = [[_BUSY]] * 2
    result = run("drain", "slm-0", "--within", "300ms")
    assert result.exit_code == 1
    assert "not empty after 300ms: 2 runs, 2 answers left" in result.stderr
    assert "--undo" in result.stderr
    told = run("drain", "slm-0", "--within", "0.3", "--json")
    assert told.exit_code == 1
    assert json.loads(told.stdout) == {
        "worker": "slm-0",
        "draining": True,
        "num_running": 2,
        "num_streams": 2,
        "is_empty": False,
    }


def test_a_router_that_goes_meanwhile_is_asked_anew(run: Run, router: FakeRouter) -> None:
    router.drains = [[_BUSY, _GONE], [_EMPTY]]
    assert run("drain", "slm-0").exit_code == 0
    assert len(router.drained) == 2


def test_undo_says_so_and_waits_for_nothing(run: Run, router: FakeRouter) -> None:
    router.drains = [[_BUSY]]
    result = run("drain", "slm-0", "--undo")
    assert (result.exit_code, result.stdout) == (0, "slm-0 takes new sessions again\n")
    assert router.drained[0].undo


def test_an_unknown_worker_and_no_time_are_bad_input(run: Run, router: FakeRouter) -> None:
    router.drains = [[_NOBODY]]
    unknown = run("drain", "x")
    assert unknown.exit_code == 2
    assert "slm-0" in unknown.stderr
    for wrong in ("soon", "0s", "-1", "1d"):
        result = run("drain", "slm-0", f"--within={wrong}")
        assert result.exit_code == 2
        assert "--within" in result.stderr
    assert len(router.drained) == 1


async def test_the_async_client_tells_the_same_and_raises_at_its_bound(router: FakeRouter) -> None:
    router.drains = [[_BUSY, _EMPTY], [_BUSY], [_NOBODY]]
    async with AsyncClient(router.address) as client:
        assert [told.num_running async for told in client.drain_worker("slm-0")] == [2, 0]
        with pytest.raises(DeadlineExceeded):
            _ = [told async for told in client.drain_worker("slm-0", timeout_s=0.2)]
        with pytest.raises(NotFound):
            _ = [told async for told in client.drain_worker("x")]


def test_status_lists_all_workers(run: Run, router: FakeRouter) -> None:
    assert "no workers" in run("status").stdout
    router.members = [
        pb.WorkerMember(id="llm-0", role=LLM, address="h:2", ready=True, num_free_pages=7, num_pages=1000),
        pb.WorkerMember(id="slm-1", role=SLM, address="h:1", detail="no answer", num_cards=2),
        pb.WorkerMember(id="slm-0", role=SLM, address="h:0", ready=True, draining=True, num_running=3, num_sessions=4),
    ]
    _, *rows = run("status").stdout.splitlines()
    assert [row.split()[:4] for row in rows] == [
        ["slm-0", "SLM", "h:0", "draining"],
        ["slm-1", "SLM", "h:1", "not"],
        ["llm-0", "LLM", "h:2", "ready"],
    ]
    assert rows[0].split()[4:6] == ["3", "4"]
    assert "no answer" in rows[1]
    assert "7 of 1,000" in rows[2]
    told = json.loads(run("status", "--json").stdout)
    assert [(each["id"], each["draining"]) for each in told] == [("llm-0", False), ("slm-1", False), ("slm-0", True)]
