"""RSTITCH_TEST_FLEET=1: each stack that a test starts has two workers of each role and two routers, asked in turn.

So the laws, which ask as anybody does, hold on a fleet without a word of their own. A test that says how many of each
it wants gets what it says.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

from rstitch.local.stack import LocalStack

FLEET = os.environ.get("RSTITCH_TEST_FLEET", "") == "1"
_COUNTS = {"num_slm": 2, "num_llm": 2, "num_routers": 2}


def grow_all_stacks() -> None:
    """Makes it so, for this process."""
    # mypy: what is replaced has the same signature.
    LocalStack.__init__ = _grown(LocalStack.__init__)  # type: ignore[method-assign]
    LocalStack.router_address = property(_next_router())  # type: ignore[assignment,method-assign]


def _grown(make: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(make)
    def made(self: LocalStack, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **(kwargs if kwargs.keys() & _COUNTS else {**_COUNTS, **kwargs}))

    return made


def _next_router() -> Callable[[LocalStack], str]:
    turns: Iterator[int] = itertools.count()

    def address(self: LocalStack) -> str:
        routers = self.routers
        return routers[next(turns) % len(routers)].address

    return address
