"""From outside into a Ray cluster, or into one of this program's own, and to a fleet's keeper there.

It says what goes wrong in our words; what is asked of the keeper is its callers' to know.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import ray
from ray.exceptions import RayError, RayTaskError

from launching import placing
from launching.keeper import KEEPER, SCALER, Keeper
from launching.plan import Plan, Scaling
from launching.scaler import Scaler
from rstitch.errors import RstitchError
from rstitch.local.part import StackError

LOCAL = "local"
_OF_OURS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Of a cluster of this program's own: nothing of ours goes through Ray's store of objects, whose least is 75 MiB.
_STORE_BYTES = 80 << 20
_CALLS = 16  # at once to a keeper: drains may take minutes


@contextmanager
def joined(address: str, fleet: str, num_cpus: int = 0) -> Iterator[None]:
    """Joins the cluster at `address` (auto: that of this machine or of RAY_ADDRESS; local: starts one).

    A cluster that was started here ends with the context; it has `num_cpus` for Ray, if the machine has fewer: there is
    no other machine, so what finds no core of its own shares. Raises RstitchError (UNAVAILABLE), also where an actor is
    lost meanwhile, and StackError for what went wrong in one.
    """
    # Ray tells its makers of each start otherwise; who wants that says so.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    own: dict[str, Any] = {}
    if address == LOCAL:
        own = {"object_store_memory": _STORE_BYTES, "include_dashboard": False}
        own["num_cpus"] = max(num_cpus, os.cpu_count() or 1)
    handlers = {number: signal.getsignal(number) for number in _OF_OURS}
    try:
        ray.init(
            address=address, namespace=placing.namespace(fleet), log_to_driver=False, logging_level=logging.ERROR, **own
        )
    except Exception as error:  # noqa: BLE001 - Ray raises nothing narrower where it does not start
        remedy = "Start one (`ray start --head`), name it with --address, or say --address local for one machine."
        what = f"no Ray cluster at {address}: {' '.join(str(error).split())[:200]}."
        raise RstitchError(grpc.StatusCode.UNAVAILABLE, "NO_RAY", what, field="--address", remedy=remedy) from None
    # Ray takes them for itself: a fleet would be left as it is, without its end.
    for number, handler in handlers.items():
        signal.signal(number, handler)
    try:
        yield
    except RayTaskError as error:
        raise StackError(f"{error.cause}", part="keeper") from error
    except RayError as error:
        remedy = "See `rstitch ray status`, then try again."
        what = f"Ray lost an actor of this fleet: {' '.join(str(error).split())[:200]}."
        raise RstitchError(grpc.StatusCode.UNAVAILABLE, "RAY_LOST", what, remedy=remedy) from None
    finally:
        ray.shutdown()


def made(plan: Plan) -> Any:
    """Makes the keeper of a fleet. Raises RstitchError (FAILED_PRECONDITION) if it has one."""
    if placing.handle(plan.fleet, KEEPER) is not None:
        raise RstitchError(
            grpc.StatusCode.FAILED_PRECONDITION,
            "FLEET_IS_UP",
            f"the fleet {plan.fleet} is up already.",
            field="--fleet",
            remedy="`rstitch ray scale` changes its size, `rstitch ray down` ends it; or name another.",
        )
    where = placing.namespace(plan.fleet)
    options: dict[str, Any] = {"name": KEEPER, "namespace": where, "max_concurrency": _CALLS, **placing.ON_HEAD}
    return ray.remote(Keeper).options(**options).remote(plan)


def keeper(fleet: str) -> Any:
    """The keeper of a fleet. Raises RstitchError (FAILED_PRECONDITION) if there is none."""
    found = placing.handle(fleet, KEEPER)
    if found is None:
        raise RstitchError(
            grpc.StatusCode.FAILED_PRECONDITION,
            "NO_FLEET",
            f"this Ray cluster has no fleet {fleet}.",
            field="--fleet",
            remedy="`rstitch ray up` starts one.",
        )
    return found


def scaler(fleet: str) -> Any | None:
    """What scales a fleet by its load; None where nothing does."""
    return placing.handle(fleet, SCALER)


def set_scaler(fleet: str, scaling: Scaling | None, within_s: float) -> None:
    """Has a fleet scaled by its load from now on, or no more (None)."""
    old = scaler(fleet)
    if old is not None:
        ray.kill(old, no_restart=True)
        while scaler(fleet) is not None:
            ray.wait([ray.put(None)], timeout=0.1)
    if scaling is not None and scaling.bounds:
        where = placing.namespace(fleet)
        options: dict[str, Any] = {"name": SCALER, "namespace": where, "max_concurrency": 2, **placing.ON_HEAD}
        ray.remote(Scaler).options(**options).remote(fleet, scaling, within_s)


def end(fleet: str, within_s: float) -> list[str]:
    """Ends a fleet with all its units. Returns those that had to be killed."""
    set_scaler(fleet, None, within_s)
    found = keeper(fleet)
    killed: list[str] = ray.get(found.close.remote(within_s))
    ray.kill(found, no_restart=True)
    return killed
