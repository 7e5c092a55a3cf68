"""How tokens are to be chosen, as messages say it, and what cannot be."""

from __future__ import annotations

from model_worker.engine.types import GREEDY, Sampling
from rstitch.errors import invalid
from rstitch.limits import MAX_BIAS, MAX_BIASES, MAX_PENALTY, MAX_REPETITION_PENALTY, MIN_REPETITION_PENALTY
from rstitch.v1 import common_pb2, worker_pb2

MAX_TEMPERATURE = 100.0


def sampling_of(message: worker_pb2.StepRequest | worker_pb2.DecodeRequest) -> Sampling:
    """Reads a request's sampling; one that is unset is greedy. Raises RstitchError INVALID_ARGUMENT with the field."""
    if not message.HasField("sampling"):
        return GREEDY
    value: common_pb2.Sampling = message.sampling
    # Comparisons that NaN fails, too.
    if not 0 <= value.temperature <= MAX_TEMPERATURE:
        raise invalid(
            "sampling.temperature", f"{value.temperature} is not in [0, {MAX_TEMPERATURE:g}].", "Send 0 for greedy."
        )
    if not 0 <= value.top_p <= 1:
        raise invalid("sampling.top_p", f"{value.top_p} is not in (0, 1].", "Leave it unset to keep all tokens.")
    if not 0 <= value.min_p <= 1:
        raise invalid("sampling.min_p", f"{value.min_p} is not in [0, 1].", "Leave it unset to keep all tokens.")
    for name in ("presence_penalty", "frequency_penalty"):
        if not -MAX_PENALTY <= (penalty := getattr(value, name)) <= MAX_PENALTY:
            told = f"{penalty} is not in [{-MAX_PENALTY:g}, {MAX_PENALTY:g}]."
            raise invalid(f"sampling.{name}", told, "Leave it unset for none.")
    least, most = MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY
    if value.repetition_penalty != 0 and not least <= value.repetition_penalty <= most:
        told = f"{value.repetition_penalty} is not in [{least:g}, {most:g}]."
        raise invalid("sampling.repetition_penalty", told, "Leave it unset for none.")
    if len(value.logit_bias) > MAX_BIASES:
        told = f"{len(value.logit_bias)} entries are too many."
        raise invalid("sampling.logit_bias", told, f"Send at most {MAX_BIASES}.")
    if not all(-MAX_BIAS <= bias <= MAX_BIAS for bias in value.logit_bias.values()):
        told = f"a bias is not in [{-MAX_BIAS:g}, {MAX_BIAS:g}]."
        raise invalid("sampling.logit_bias", told, "Send smaller ones.")
    return Sampling(
        value.temperature,
        value.top_p or 1.0,
        value.top_k,
        value.seed,
        value.position_offset,
        value.min_p,
        tuple(sorted(value.logit_bias.items())),
        value.presence_penalty,
        value.frequency_penalty,
        value.repetition_penalty or 1.0,
        value.penalized_from,
    )
