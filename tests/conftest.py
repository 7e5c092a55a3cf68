"""What all tests share: one torch thread (the models are tiny, and threads that spin cost more than they give), the
order, and who runs what: the laws come first, since they take longest and matter most; a stack is started once.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

if TYPE_CHECKING:
    from tests.support.redis_cluster import ClusterProcesses
    from tests.support.redis_process import RedisProcess
    from tests.support.redis_sentinel import SentinelProcesses
    from tests.support.scraped import ScrapedStack

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

LAWS = Path(__file__).parent / "laws"


# Stacks that live as long as the session: whatever uses one of them runs in one process, where it is started once.
# So does whatever uses the folder of compiled steps, where a step is compiled once.
STACKS = ("bundled_stack", "compiled_code", "kindred_stack", "stack", "tiny_stack")
_ANYWHERE = ("compiled_code", "tiny_stack")


_configure = structlog.configure


def _without_caching(*args: Any, **kwargs: Any) -> None:
    """A logger that keeps how logs were set up when it was first used would be deaf to every later test's wishes."""
    _configure(*args, **kwargs | {"cache_logger_on_first_use": False})


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """Some tests run what sets the logs of a process up."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    if structlog.is_configured():
        structlog.reset_defaults()
        root.handlers[:], root.level = handlers, level


def pytest_configure() -> None:
    structlog.configure = _without_caching
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell's background job; whatever a test starts would inherit it, and never hear of Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    from rstitch.local import processes
    from tests.support.forked import spawn_forked

    processes.ChildProcess.spawn = staticmethod(spawn_forked)
    from tests.support import secured

    if secured.SECURE:
        secured.lock_all_stacks()
    from tests.support import several

    if several.FLEET:
        several.grow_all_stacks()
    # A port that one process has drawn and not bound yet, or keeps for a part that is down, is not drawn by another.
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    processes.PORTS = processes.PORTS[number % 4 :: 4]


def pytest_itemcollected(item: pytest.Item) -> None:
    # Here, and not once all are collected: xdist reads the groups then, in a hook of its own that comes first.
    laws = LAWS in item.path.parents
    used = [name for name in STACKS if name in getattr(item, "fixturenames", ()) and (laws or name in _ANYWHERE)]
    item.add_marker(pytest.mark.xdist_group(used[0] if used else str(item.path.relative_to(LAWS.parent))))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LAWS not in item.path.parents)


def pytest_collection_finish(session: pytest.Session) -> None:
    if getattr(session.config.option, "loadgroup", False) and session.items and "@" not in session.items[0].nodeid:
        raise pytest.UsageError("pytest-xdist groups no tests: this release of pytest and that of xdist do not fit")


@pytest.fixture(scope="session")
def tiny_stack() -> Iterator[ScrapedStack]:
    """The stack that `rstitch up --metrics-port` starts: the bundled pair, all defaults, for whoever only asks it."""
    from tests.support.scraped import ScrapedStack

    with ScrapedStack() as running:
        yield running


@pytest.fixture(scope="session")
def compiled_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For XDG_CACHE_HOME: a folder in which each architecture's step is compiled once, with what is built in C++."""
    from model_worker.engine.forward.code_cache import cache_folder, make_folder

    folder = tmp_path_factory.mktemp("code")
    for library in cache_folder().glob("*.so"):
        make_folder(kept := folder / "rstitch" / library.name)
        shutil.copy2(library, kept)
    return folder


@pytest.fixture(scope="session")
def redis_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """One server, for a folder whose conftest has none of its own."""
    from tests.support.redis_process import RedisProcess

    process = RedisProcess(tmp_path_factory.mktemp("redis"))
    process.start()
    yield process
    process.stop()


@pytest.fixture(scope="session")
def sentinel_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelProcesses]:
    """A primary and its replica, under a Sentinel; whoever kills one brings it back."""
    from tests.support.redis_sentinel import SentinelProcesses

    with SentinelProcesses(tmp_path_factory.mktemp("sentinel")) as processes:
        yield processes


@pytest.fixture(scope="session")
def cluster_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProcesses]:
    """A cluster of three primaries; nobody kills one."""
    from tests.support.redis_cluster import ClusterProcesses

    with ClusterProcesses(tmp_path_factory.mktemp("cluster")) as processes:
        yield processes
