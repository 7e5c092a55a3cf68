"""Takes down in a trajectory that other workers hold its session now, while its answer is written."""

from __future__ import annotations

from importlib import resources

from router_svc.trajectory import keys
from router_svc.trajectory.binding import Binding
from storage.redis_link import RedisLink

# It is a hint: whoever reads the one before finds that worker gone, and chooses anew.
_PATIENCE_S = 2.0


class Rebinding:
    """Changes bindings with a script, bind.lua, fenced by epoch and owner as append.lua is."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        text = (resources.files("router_svc.trajectory") / "bind.lua").read_text("utf-8")
        self._script = link.redis.register_script(text)

    async def bind(self, session_id: str, owner: str, epoch: int, binding: Binding) -> bool:
        """Says whether it was taken down: not by a router that does not own the trajectory, nor an earlier binding.

        Raises RstitchError (UNAVAILABLE).
        """
        args: list[str | int] = [owner, epoch, *binding.values]
        names = [keys.trajectory(session_id)]
        return bool(await self._link.call(lambda: self._script(keys=names, args=args), _PATIENCE_S))
