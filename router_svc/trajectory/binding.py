"""To which workers a session is bound, as its trajectory's header keeps it. It knows no worker and no store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Fields of the hash, in the order of `Binding.values`.
FIELDS = ("slm_worker", "llm_worker", "binding_epoch")


@dataclass(frozen=True, slots=True)
class Binding:
    """The workers that hold a session, by their ids in the fleet; "" where none was chosen.

    It is a hint where keys and values of the session may be found, and nothing depends on its being right.
    """

    slm: str = ""
    llm: str = ""
    epoch: int = 0  # counts the bindings of the session

    @property
    def values(self) -> tuple[str, str, int]:
        return self.slm, self.llm, self.epoch


UNBOUND = Binding()


def binding_of(values: Sequence[bytes | None]) -> Binding:
    """The binding that the fields of a session's hash hold; those of an older router hold none."""
    slm, llm, epoch = values
    return Binding((slm or b"").decode(), (llm or b"").decode(), int(epoch or 0))
