"""What the manifests of deploy/kubernetes start is a fleet that answers, and loses nothing when a pod goes."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import grpc
import pytest

from rstitch.v1 import router_pb2, router_pb2_grpc
from tests.support.kustomized import needs_kubectl, rendered
from tests.support.pods import Cluster
from tests.support.redis_process import wait_for

pytestmark = [pytest.mark.soak, needs_kubectl, pytest.mark.timeout(400)]
QUESTION = "There are 12 boxes with 7 pens each. How many pens are there?"
WORKERS = ("slm-worker-0", "slm-worker-1", "llm-worker-0", "llm-worker-1")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with ExitStack() as held:
        made = Cluster(rendered("cpu"), tmp_path_factory.mktemp("pods"), held)
        made.start("redis")
        made.ready("redis-0")
        for workload, number in (("slm-worker", 2), ("llm-worker", 2), ("router", 2), ("gateway", 1)):
            for each in range(number):
                made.start(workload, each)
        made.ready(*made.pods)
        yield made


def ask(cluster: Cluster) -> str:
    """Asks through the gateway, as somebody behind a port-forward does; gives the text of the answer."""
    body = {
        "model": "rstitch:threshold:tau=0.02",
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": 200,
    }
    url = f"http://{cluster.pods['gateway-0'].ip}:8000/v1/chat/completions"
    headers = {"Content-Type": "application/json", "Host": "localhost"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=120) as reply:
        told: Any = json.load(reply)
    return str(told["choices"][0]["message"]["content"])


def members_of(cluster: Cluster, router: str) -> dict[str, router_pb2.WorkerMember]:
    """The workers that a router knows, by their names."""
    with grpc.insecure_channel(f"{cluster.pods[router].ip}:50050") as channel:
        status = router_pb2_grpc.RouterServiceStub(channel).GetStatus(router_pb2.GetStatusRequest(), timeout=10)
    return {member.id: member for member in status.members}


def test_every_pod_lives_and_routers_found_every_worker(cluster: Cluster) -> None:
    for pod in cluster.pods.values():
        assert pod.probe("liveness"), pod.name
    for name in ("router-0", "router-1"):
        wait_for(lambda: set(members_of(cluster, name)) == set(WORKERS), f"{name} finds all")  # noqa: B023 - at once
        members = members_of(cluster, name)
        for id, member in members.items():
            assert member.address == f"{cluster.pods[id].ip}:50051"
            assert (member.ready, member.draining) == (True, False)


def test_pods_go_under_load_and_no_answer_is_lost_or_changed(cluster: Cluster) -> None:
    wanted = ask(cluster)
    assert wanted
    with ThreadPoolExecutor(6) as threads:

        def burst() -> list[Any]:
            return [threads.submit(ask, cluster) for _ in range(12)]

        for name in ("slm-worker-0", "llm-worker-1", "router-0"):
            asked = burst()
            asked[0].result()  # the others are being written, or wait
            assert any(not each.done() for each in asked)
            assert cluster.pods.pop(name).end() == 0
            cluster.ready()
            assert {each.result() for each in asked} == {wanted}
    # Scaled up again: one of another name.
    cluster.start("slm-worker", 2)
    cluster.ready("slm-worker-2")
    assert ask(cluster) == wanted
    left = {"slm-worker-1", "slm-worker-2", "llm-worker-0"}
    wait_for(lambda: set(members_of(cluster, "router-1")) == left, "the router knows who is there")
