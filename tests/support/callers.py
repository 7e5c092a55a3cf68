"""Callers with limits, for routers that ask for no keys: whoever calls is taken for one of them."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from rstitch.service import caller as calling
from rstitch.service.caller import Caller, Limits


def limited(key_id: str = "k1", tenant: str = "acme", **limits: int) -> Caller:
    return Caller(tenant, key_id, limits=Limits(**limits))


def everybody_is(who: Caller) -> None:
    """Whoever does not show another key from now on, in this process."""
    variable: Any = ContextVar("caller", default=who)
    calling._CALLER = variable
