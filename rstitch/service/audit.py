"""The audit log: one line for each call that was refused, and for each that changes what is kept.

A line says who (key id, tenant, peer), what (method) and how it ended (code, reason), and nothing of what was sent or
returned. It goes where all logs go, whatever their level, by a logger of its own name. It does not know who may do
what.
"""

from __future__ import annotations

import logging

import structlog

from rstitch.service.caller import Caller

LOGGER = "rstitch.audit"
_log = structlog.get_logger(LOGGER)


def setup_audit() -> None:
    """Lets the audit log through where the level of the other logs is higher than info."""
    logging.getLogger(LOGGER).setLevel(logging.INFO)


def note(method: str, by: Caller | None, peer: str, code: str, reason: str = "", claimed_id: str = "") -> None:
    """Writes a line.

    Args:
        by: None: nobody knows who it was.
        peer: as gRPC names it, such as `ipv4:10.0.0.7:41342`.
        code: the name of a gRPC status code.
        reason: of the error; "": there is none.
        claimed_id: of the key that was shown and not good: whose it is would otherwise not be found.
    """
    told = {"reason": reason, "claimed_id": claimed_id}
    told |= {"key_id": by.key_id, "tenant": by.tenant} if by is not None else {}
    _log.info("audit", method=method, code=code, peer=peer, **{name: value for name, value in told.items() if value})
