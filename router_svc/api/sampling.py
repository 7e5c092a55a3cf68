"""How tokens are to be chosen, as a request says it. Whether token ids are the models' is not known here."""

from __future__ import annotations

from router_svc.api.checks import require
from router_svc.trajectory.types import Sampling
from rstitch.v1 import common_pb2

_MAX_TEMPERATURE = 100.0


def parse_sampling(sampling: common_pb2.Sampling) -> Sampling:
    """Reads the message; one that is unset is greedy. Raises RstitchError."""
    value, remedy = sampling.temperature, f"Use a number in [0, {_MAX_TEMPERATURE:g}]; 0 is greedy."
    require(0 <= value <= _MAX_TEMPERATURE, "sampling.temperature", f"{value} is no temperature.", remedy)
    top_p, remedy = sampling.top_p, "Use a number in (0, 1]; 0 or unset: all."
    require(0 <= top_p <= 1, "sampling.top_p", f"{top_p} is no probability.", remedy)
    return Sampling(value, top_p, sampling.top_k, sampling.seed)
