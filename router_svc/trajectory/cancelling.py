"""The mark that asks the router of a running answer to end it. Who sets it need not know which router that is."""

from __future__ import annotations

import time
from functools import partial
from importlib import resources

from router_svc.trajectory import keys
from router_svc.trajectory.leases import lease_ms
from router_svc.trajectory.session_names import id_in
from router_svc.trajectory.types import Ended, State
from storage.redis_link import RedisLink


class Cancelling:
    """Sets the mark with a script, cancel.lua; append.lua tells of it and claim.lua takes it away."""

    def __init__(self, link: RedisLink, ttl_ms: int) -> None:
        self._link = link
        self._ttl_ms = ttl_ms
        folder = resources.files("router_svc.trajectory")
        texts = [(folder / name).read_text("utf-8") for name in ("entries.lua", "cancel.lua")]
        self._script = link.redis.register_script("".join(texts))

    async def mark(self, name: str, epoch: int | None = None, patience_s: float | None = None) -> Ended | int | None:
        """Marks the answer that is being written as one to end; its router finds the mark at its next append.

        Returns its epoch, with which the next call looks at the same answer again; how the session is, if nobody writes
        that answer, and whether it was over by this; None if there is no such session. An answer whose router is gone
        is interrupted here.
        """
        owner = ""
        while True:
            args = ["" if epoch is None else epoch, owner, time.time_ns() // 1_000_000, self._ttl_ms, id_in(name)]
            call = partial(self._script, keys=keys.of_session(name)[:3], args=args)
            reply = await self._link.call(call, patience_s)
            match reply[0]:
                case b"RUNNING":
                    epoch, owner = int(reply[1]), reply[2].decode()
                    if await lease_ms(self._link, owner, patience_s) > 0:
                        return epoch
                case b"ENDED":
                    state = State(reply[1].decode())
                    # One that was marked before it ended was over by that, unless it was complete just then.
                    by_mark = epoch is not None and state is State.INTERRUPTED
                    return Ended(state, int(reply[2]), by_mark or bool(reply[3]))
                case _:
                    return None
