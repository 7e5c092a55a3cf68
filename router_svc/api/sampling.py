"""How tokens are to be chosen, as a request says it. Whether token ids are the models' is not known here."""

from __future__ import annotations

from collections.abc import Mapping

from router_svc.api.checks import check_probability, require
from router_svc.trajectory.types import Sampling
from rstitch.limits import MAX_BIAS, MAX_BIASES, MAX_PENALTY, MAX_REPETITION_PENALTY, MIN_REPETITION_PENALTY
from rstitch.v1 import common_pb2

_MAX_TEMPERATURE = 100.0


def parse_sampling(sampling: common_pb2.Sampling) -> Sampling:
    """Reads the message; one that is unset is greedy. Raises RstitchError."""
    value, remedy = sampling.temperature, f"Use a number in [0, {_MAX_TEMPERATURE:g}]; 0 is greedy."
    require(0 <= value <= _MAX_TEMPERATURE, "sampling.temperature", f"{value} is no temperature.", remedy)
    top_p, remedy = sampling.top_p, "Use a number in (0, 1]; 0 or unset: all."
    require(0 <= top_p <= 1, "sampling.top_p", f"{top_p} is no probability.", remedy)
    min_p = check_probability("sampling.min_p", sampling.min_p)
    for name in ("presence_penalty", "frequency_penalty"):
        penalty, most = getattr(sampling, name), MAX_PENALTY
        what, remedy = f"{penalty} is no penalty.", f"Use a number in [{-most:g}, {most:g}]; 0: none."
        require(-most <= penalty <= most, f"sampling.{name}", what, remedy)
    repetition, least, most = sampling.repetition_penalty, MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY
    what, remedy = f"{repetition} is no penalty.", f"Use a number in [{least:g}, {most:g}]; 1 or unset: none."
    require(repetition == 0 or least <= repetition <= most, "sampling.repetition_penalty", what, remedy)
    return Sampling(
        value,
        top_p,
        sampling.top_k,
        sampling.seed,
        min_p,
        _parse_bias(sampling.logit_bias),
        sampling.presence_penalty,
        sampling.frequency_penalty,
        repetition or 1.0,
    )


def _parse_bias(biases: Mapping[int, float]) -> tuple[tuple[int, float], ...]:
    field, num = "sampling.logit_bias", len(biases)
    require(num <= MAX_BIASES, field, f"{num} entries are too many.", f"Send at most {MAX_BIASES}.")
    for token, bias in biases.items():
        remedy = f"Use a number in [{-MAX_BIAS:g}, {MAX_BIAS:g}]."
        require(-MAX_BIAS <= bias <= MAX_BIAS, f"{field}[{token}]", f"{bias} is no bias.", remedy)
    return tuple(sorted(biases.items()))
