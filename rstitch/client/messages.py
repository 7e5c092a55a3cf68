"""Reads the contract's messages as a client's values; shared by the sync and the async client."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import grpc

from rstitch.client import types as t
from rstitch.client.reading import enum, read
from rstitch.client.specs import KINDS
from rstitch.errors import RstitchError
from rstitch.v1 import common_pb2, router_pb2


def event(response: router_pb2.GenerateResponse) -> t.Event:
    """Reads one event of an answer. Raises: RstitchError (UNIMPLEMENTED) if it is of a kind not known here."""
    kind = response.WhichOneof("event")
    if kind == "started":
        m = response.started
        return t.Started(m.session_id, m.num_prompt_tokens, m.position, m.trace_id, m.prompt_end)
    if kind == "chunk":
        c = response.chunk
        told = enum("Model", c.model), c.position, tuple(c.tokens), tuple(c.entropies), c.text
        if not (c.uncertainties or c.consultations or c.details):  # as of most
            return t.Chunk(*told)
        return t.Chunk(*told, tuple(c.uncertainties), _consultations(c.consultations), _details(c.details))
    if kind == "switch":
        s = response.switch
        models = enum("Model", getattr(s, "from")), enum("Model", s.to)  # `from` is a keyword of Python
        return t.Switch(*models, s.position, s.entropy, enum("SwitchReason", s.reason))
    if kind == "finished":
        return _finished(response.finished)
    raise _unknown("an event")


def trajectory(m: router_pb2.Trajectory) -> t.Trajectory:
    """Reads a trajectory, whose segments a listing leaves out."""
    segments = tuple(
        read(
            t.Segment,
            segment,
            consultations=_consultations(segment.consultations),
            details=_details(segment.details),
        )
        for segment in m.segments
    )
    finished = _finished(m.finished) if m.HasField("finished") else None
    return read(t.Trajectory, m, segments=segments, policy=_policy(m.policy), finished=finished)


def observations(m: router_pb2.ObserveAnswerResponse) -> Iterator[t.Observation]:
    """Reads some positions of an answer that is observed."""
    for asked, token, writer in zip(_consultations(m.consultations), m.tokens, m.writers, strict=True):
        yield t.Observation(asked, token, enum("Model", writer))


def cancelled(m: router_pb2.CancelGenerationResponse) -> t.Cancelled:
    """Reads how a session is after a cancel."""
    return read(t.Cancelled, m)


def status(m: router_pb2.GetStatusResponse) -> t.Status:
    """Reads the state of a router and its workers."""
    guard = read(t.GuardStatus, m.guard, on=m.guard.default_guard == router_pb2.GUARD_ON)
    workers = tuple(read(t.WorkerStatus, worker) for worker in m.workers)
    members = tuple(read(t.WorkerMember, member) for member in m.members)
    heads = tuple(_head(head) for head in m.heads)
    return read(t.Status, m, workers=workers, guard=guard, heads=heads, members=members)


def worker_drain(m: router_pb2.DrainWorkerResponse) -> t.WorkerDrain:
    """Reads how far a worker is that drains."""
    return read(t.WorkerDrain, m)


def _head(m: router_pb2.HeadStatus) -> t.HeadStatus:
    return read(t.HeadStatus, m, **({} if m.HasField("updated") else {"updated": None}))


def profile(m: router_pb2.Profile) -> t.KeptProfile:
    """Reads a profile. Raises: RstitchError (UNIMPLEMENTED) if its policy is not known here."""
    policy = _policy(m.policy)
    if policy is None:
        raise _unknown("a policy")
    stops = m.budget.then == router_pb2.BUDGET_THEN_STOP
    budget = read(t.Budget, m.budget, stop=stops) if m.HasField("budget") else None
    early_exit = read(t.EarlyExit, m.early_exit) if m.HasField("early_exit") else None
    return read(t.KeptProfile, m, policy=policy, early_exit=early_exit, budget=budget)


def _policy(m: router_pb2.Policy) -> t.Policy | None:
    kind = m.WhichOneof("kind")
    if kind == "profile":
        return t.Profile(m.profile)
    return None if kind is None else read(KINDS[kind], getattr(m, kind))


def _finished(m: router_pb2.Finished) -> t.Finished:
    usage = read(t.Usage, m.usage, breakdown=read(t.TimeBreakdown, m.usage.breakdown))
    taken = read(t.EarlyExitTaken, m.early_exit) if m.HasField("early_exit") else None
    return read(t.Finished, m, usage=usage, policy=_policy(m.policy), early_exit=taken)


def _consultations(asked: Iterable[common_pb2.Consultation]) -> tuple[t.Consultation, ...]:
    return tuple(read(t.Consultation, m) for m in asked)


def _details(details: Iterable[router_pb2.TokenDetail]) -> tuple[t.TokenDetail, ...]:
    return tuple(
        read(t.TokenDetail, m, alternatives=tuple(read(t.Alternative, other) for other in m.alternatives))
        for m in details
    )


def _unknown(what: str) -> RstitchError:
    return RstitchError(
        grpc.StatusCode.UNIMPLEMENTED,
        f"UNKNOWN_{what.split()[-1].upper()}",
        f"the router sent {what} that this client does not know.",
        remedy="Update the client to the router's version.",
    )
