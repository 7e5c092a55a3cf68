"""Where texts become prompts: what is no question takes no question's place."""

from __future__ import annotations

import asyncio
import threading

import pytest

from router_svc.answers.apart import Apart
from rstitch.errors import ResourceExhausted


async def test_questions_do_not_wait_for_what_is_none() -> None:
    apart, held, begun = Apart(), threading.Event(), 0

    def wait() -> None:
        nonlocal begun
        begun += 1
        held.wait(30)

    others = [asyncio.ensure_future(apart.make_aside(wait, 10)) for _ in range(66)]
    try:
        assert await asyncio.wait_for(apart.make(lambda: "a prompt", 10), 20) == "a prompt"
        assert begun <= 2
        with pytest.raises(ResourceExhausted) as refused:
            await apart.make_aside(wait, 10)
        assert refused.value.retry_after_s == 1.0
    finally:
        held.set()
    await asyncio.gather(*others)
    assert begun == 66
    assert await apart.make_aside(lambda: 7, 10) == 7
