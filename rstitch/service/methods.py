"""One table: which scope each method of every service needs. What is not in it is refused to everybody.

It does not know who calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rstitch.service.caller import Scope

_GENERATE, _TRAJECTORIES, _PROFILES = Scope.GENERATE, Scope.TRAJECTORIES, Scope.PROFILES


@dataclass(frozen=True, slots=True)
class Rule:
    """What a method asks of its caller.

    Attributes:
        scopes: any one of them is enough; empty: any key that holds will do.
        open: whether it is for everybody, without a key.
        changes: whether it changes what is kept, so that every call of it belongs into the audit log.
    """

    scopes: frozenset[Scope] = frozenset()
    open: bool = False
    changes: bool = False


def _for(*scopes: Scope, changes: bool = False) -> Rule:
    return Rule(frozenset(scopes), changes=changes)


METHODS: Mapping[str, Rule] = {
    # It begins and continues sessions. Whoever re-attaches reads an answer that its tenant asked for.
    "/rstitch.v1.RouterService/Generate": _for(_GENERATE, changes=True),
    "/rstitch.v1.RouterService/CancelGeneration": _for(_GENERATE, changes=True),
    "/rstitch.v1.RouterService/ObserveAnswer": _for(_GENERATE),
    "/rstitch.v1.RouterService/Tokenize": _for(_GENERATE),
    "/rstitch.v1.RouterService/Detokenize": _for(_GENERATE),
    "/rstitch.v1.RouterService/GetTrajectory": _for(_TRAJECTORIES),
    "/rstitch.v1.RouterService/ListTrajectories": _for(_TRAJECTORIES),
    "/rstitch.v1.RouterService/LabelTrajectory": _for(_TRAJECTORIES, changes=True),
    "/rstitch.v1.RouterService/DeleteTrajectory": _for(_TRAJECTORIES, changes=True),
    "/rstitch.v1.RouterService/PutProfile": _for(_PROFILES, changes=True),
    # Who may ask questions names profiles in them, and is told their names by the error about an unknown one.
    "/rstitch.v1.RouterService/ListProfiles": _for(_PROFILES, _GENERATE),
    "/rstitch.v1.RouterService/DeleteProfile": _for(_PROFILES, changes=True),
    # Heads are everybody's: they choose who writes the tokens of all tenants.
    "/rstitch.v1.RouterService/StoreHead": _for(Scope.ADMIN, changes=True),
    "/rstitch.v1.RouterService/ActivateHead": _for(Scope.ADMIN, changes=True),
    "/rstitch.v1.RouterService/DeleteHead": _for(Scope.ADMIN, changes=True),
    # Whether it is ready, what can be asked for. Addresses, folders and reasons are for `admin` (see GetStatus).
    "/rstitch.v1.RouterService/GetStatus": Rule(),
    "/rstitch.v1.RouterService/DrainWorker": _for(Scope.ADMIN, changes=True),
    # A worker's sessions are the router's working memory: nothing of them outlives it, so they are no change to audit.
    "/rstitch.v1.WorkerService/Step": _for(Scope.WORKER),
    "/rstitch.v1.WorkerService/Decode": _for(Scope.WORKER),
    "/rstitch.v1.WorkerService/DecodeMany": _for(Scope.WORKER),
    "/rstitch.v1.WorkerService/Observe": _for(Scope.WORKER),
    "/rstitch.v1.WorkerService/ForkSession": _for(Scope.WORKER),
    "/rstitch.v1.WorkerService/CloseSession": _for(Scope.WORKER),
    "/rstitch.v1.WorkerService/PutHead": _for(Scope.WORKER, changes=True),
    "/rstitch.v1.WorkerService/Drain": _for(Scope.WORKER, changes=True),
    "/rstitch.v1.WorkerService/GetInfo": _for(Scope.WORKER),
    "/rstitch.v1.WorkerService/GetTokenizer": _for(Scope.WORKER),
    # Liveness, for whoever starts and restarts the process; it says one word.
    "/grpc.health.v1.Health/Check": Rule(open=True),
    "/grpc.health.v1.Health/Watch": _for(Scope.ADMIN),
    "/grpc.health.v1.Health/List": _for(Scope.ADMIN),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _for(Scope.ADMIN),
}
