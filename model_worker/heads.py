"""The policy heads that a worker was given (`PutHead`). They are lost with the process; routers send them again."""

from __future__ import annotations

from collections import OrderedDict

import grpc

from rstitch.errors import RstitchError, invalid
from rstitch.service.head import Head, HeadFileError

MAX_HEADS = 64
MAX_NAME_LENGTH = 128


class HeadTable:
    """Heads by name that fit a model; when there are too many, the one not used for longest is forgotten."""

    def __init__(self, hidden_size: int, tokenizer_fingerprint: str) -> None:
        self._hidden_size = hidden_size
        self._tokenizer_fingerprint = tokenizer_fingerprint
        self._heads: OrderedDict[str, Head] = OrderedDict()

    def put(self, name: str, data: bytes) -> None:
        """Keeps a head under a name. Raises RstitchError if the bytes are no head, or it does not fit the model."""
        if not 1 <= len(name) <= MAX_NAME_LENGTH:
            raise invalid("name", f"a name has 1 to {MAX_NAME_LENGTH} characters, not {len(name)}.", "Choose another.")
        try:
            head = Head.from_bytes(data)
        except HeadFileError as error:
            remedy = "Send a file that `rstitch train-head` made."
            raise invalid("data", f"{error}.", remedy, "HEAD_UNREADABLE") from error
        misfit = head.facts.misfit(self._hidden_size, self._tokenizer_fingerprint)
        if misfit:
            raise RstitchError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "HEAD_MISFIT",
                f"the head {name} does not fit this model: {misfit}.",
                field="data",
                remedy="Send one that was trained for this model.",
            )
        self._heads[name] = head
        self._heads.move_to_end(name)
        if len(self._heads) > MAX_HEADS:
            self._heads.popitem(last=False)

    def get(self, name: str) -> Head:
        """Returns a head. Raises RstitchError (FAILED_PRECONDITION, HEAD_UNKNOWN) if it is not here."""
        if name not in self._heads:
            raise RstitchError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "HEAD_UNKNOWN",
                f"this worker has no head {name[:MAX_NAME_LENGTH]}.",
                field="handoff.head",
                remedy="Send it with PutHead, then the run again.",
                metadata={"head": name[:MAX_NAME_LENGTH]},
            )
        self._heads.move_to_end(name)
        return self._heads[name]
