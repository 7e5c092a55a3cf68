"""Profiles: policies kept under names in Redis, and how a question that names one gets its policy.

A tenant has its own, which it alone sees and changes. Beside them it sees those that were put without a tenant, by
whoever runs the router; its own of the same name goes before one of these.

What is kept is the contract's own message as JSON, so that a field which a policy gains later is kept without a change
here. A profile is looked up when an answer begins: a later change of it does not reach that answer.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import replace

import grpc
from google.protobuf import json_format

from router_svc.answers.request import Question
from router_svc.api.validation import parse_question
from router_svc.trajectory import keys
from rstitch.errors import RstitchError, invalid
from rstitch.v1 import router_pb2
from storage.redis_address import RedisAddress
from storage.redis_link import RedisLink

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MAX_DESCRIPTION = 2000
_MAX_PROFILES = 1000  # of a tenant: they never expire
_MAX_NAMES = 20  # that an error names
_FIELD = "policy.profile"
# Keeps a profile unless that is one too many; in one step, since several may be put at once.
_PUT = """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then
    return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
"""
# What a profile may hold beside its policy, and a request may hold itself.
_EXTRAS = ("early_exit", "budget")


class Profiles:
    """The profiles that all routers on one Redis share; `default_tau` is that of a policy that names none."""

    def __init__(self, address: RedisAddress, patience_s: float, default_tau: float) -> None:
        self._link = RedisLink(address, patience_s)
        self._default_tau = default_tau
        self._put = self._link.redis.register_script(_PUT)

    async def close(self) -> None:
        await self._link.close()

    async def put(self, profile: router_pb2.Profile, tenant: str) -> router_pb2.Profile:
        """Keeps a profile in place of the tenant's one of its name, and returns it as kept, with the time.

        Raises RstitchError if no answer could use it: a client learns of a mistake now, not with its first question; or
        FAILED_PRECONDITION if the tenant has as many as it may.
        """
        _check(profile, self._default_tau)
        kept = router_pb2.Profile()
        kept.CopyFrom(profile)
        kept.updated.FromMilliseconds(int(time.time() * 1000))
        text = json_format.MessageToJson(kept, preserving_proto_field_name=True, indent=None)
        names: list[str] = [keys.profiles(tenant)]
        args: list[str | int] = [kept.name, text, _MAX_PROFILES]
        if not await self._link.call(lambda: self._put(keys=names, args=args)):
            raise _too_many()
        return kept

    async def all(self, tenant: str) -> list[router_pb2.Profile]:
        """All that a question of the tenant's may name, by name."""
        kept: dict[bytes, bytes] = {}
        for key in _seen_by(tenant):
            kept |= await self._link.command("HGETALL", key)
        # Off the event loop: there may be many.
        return await asyncio.to_thread(lambda: [_parsed(kept[name]) for name in sorted(kept)])

    async def delete(self, name: str, tenant: str) -> None:
        """Forgets the tenant's own profile of that name. Raises RstitchError (NOT_FOUND) if it has none."""
        if not await self._link.command("HDEL", keys.profiles(tenant), _checked_name(name, "name")):
            names = await self._names([keys.profiles(tenant)])
            raise _unknown(f"{name} of this tenant's own" if tenant else name, "name", names)

    async def question(self, request: router_pb2.GenerateRequest, tenant: str) -> Question:
        """The tenant's question that a request asks, with the policy of the profile that it names, if any.

        A budget or early exit in the request goes before that of the profile. Raises RstitchError.
        """
        if request.policy.WhichOneof("kind") != "profile":
            return parse_question(request, self._default_tau, tenant)
        name = _checked_name(request.policy.profile, _FIELD)
        text: bytes | None = await self._link.command("HGET", keys.profiles(tenant), name)
        if text is None and tenant:
            text = await self._link.command("HGET", keys.PROFILES, name)
        if text is None:
            raise _unknown(name, _FIELD, await self._names(_seen_by(tenant)))
        profile = _parsed(text)
        meant = router_pb2.GenerateRequest()
        meant.CopyFrom(request)
        meant.policy.CopyFrom(profile.policy)
        _copy_extras(profile, meant)
        # Parsed as if the client had sent all of it: one place knows what a policy may be.
        return replace(parse_question(meant, self._default_tau, tenant), profile=name)

    async def _names(self, where: Sequence[str]) -> list[str]:
        found = [await self._link.command("HKEYS", key) for key in where]
        return sorted({name.decode() for names in found for name in names})


def _seen_by(tenant: str) -> list[str]:
    """The keys of all profiles that a tenant sees; of one name, that in the last of them counts."""
    return [keys.PROFILES, keys.profiles(tenant)] if tenant else [keys.PROFILES]


def _too_many() -> RstitchError:
    return RstitchError(
        grpc.StatusCode.FAILED_PRECONDITION,
        "TOO_MANY_PROFILES",
        f"there are {_MAX_PROFILES} profiles, as many as are kept.",
        field="profile.name",
        remedy="Forget one (`rstitch profiles rm`), or replace one by putting it under its name.",
    )


def _unknown(which: str, field: str, names: Sequence[str]) -> RstitchError:
    shown = ", ".join(names[:_MAX_NAMES]) + (f" and {len(names) - _MAX_NAMES} more" * (len(names) > _MAX_NAMES))
    return RstitchError(
        grpc.StatusCode.NOT_FOUND,
        "UNKNOWN_PROFILE",
        f"there is no profile {which}.",
        field=field,
        remedy=f"There are {shown}." if names else "There are none; `rstitch calibrate --name` makes one.",
    )


def _check(profile: router_pb2.Profile, default_tau: float) -> None:
    """Raises RstitchError, naming the profile's field, if no answer could be asked for with the profile."""
    _checked_name(profile.name, "profile.name")
    if len(profile.description) > _MAX_DESCRIPTION:
        raise invalid("profile.description", "it is too long.", f"Use at most {_MAX_DESCRIPTION} characters.")
    kind = profile.policy.WhichOneof("kind")
    if kind in (None, "profile"):
        what = "it is another profile." if kind else "there is none."
        raise invalid("profile.policy", what, "Give a policy of its own, such as threshold.")
    # Asks a question with it: what no answer could use is refused by the same checks and in the same words.
    asked = router_pb2.GenerateRequest(text="?", policy=profile.policy)
    _copy_extras(profile, asked)
    try:
        parse_question(asked, default_tau, "")
    except RstitchError as error:
        error.field = f"profile.{error.field}"
        raise


def _copy_extras(profile: router_pb2.Profile, request: router_pb2.GenerateRequest) -> None:
    """Puts into the request what the profile holds beside its policy, where the request has nothing of its own."""
    for extra in _EXTRAS:
        if profile.HasField(extra) and not request.HasField(extra):
            getattr(request, extra).CopyFrom(getattr(profile, extra))


def _checked_name(name: str, field: str) -> str:
    if not _NAME.fullmatch(name):
        what = f"{name[:80]!r} is no name of a profile." if name else "it is empty."
        raise invalid(field, what, "Use 1 to 64 of the characters A-Z a-z 0-9 . _ -")
    return name


def _parsed(text: bytes) -> router_pb2.Profile:
    """The profile as kept, without fields that only a newer router knows."""
    return json_format.Parse(text, router_pb2.Profile(), ignore_unknown_fields=True)
