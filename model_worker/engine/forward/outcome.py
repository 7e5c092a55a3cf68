"""What a step computed of the distributions that were asked for: chosen tokens, and what may be asked of the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model_worker.engine.bookkeeping.token_counts import Counted
from model_worker.engine.errors import EngineError
from model_worker.engine.forward.alternatives import most_probable
from model_worker.engine.forward.batch import Batch
from model_worker.engine.forward.sampling import Choices, choose, margins
from model_worker.engine.forward.transfer import Later, to_device
from model_worker.engine.types import Alternatives, Signal


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step computed, with one entry per distribution that was asked for. Its bytes are float32 little-endian."""

    choices: Choices  # on the host
    logits: Tensor  # [n, vocab_size], on the device, valid until the next launch
    hidden: Tensor  # [n, hidden_size], likewise
    index: Sequence[int]  # which of the n rows each entry has; a captured graph computes all rows
    margins: Mapping[int, float]  # p1 - p2 by entry, where a hand-off compares it
    alternatives: Mapping[int, Alternatives]  # by entry, where they are asked for
    stuck: Mapping[int, EngineError]  # by entry, where a grammar leaves no token

    def hidden_state(self, row: int) -> bytes:
        return _raw(self.hidden[self.index[row]])

    def hidden_states(self, rows: Sequence[int]) -> bytes:
        """Returns those of several entries in half precision, [len(rows), hidden_size], in one copy."""
        if not rows:
            return b""
        places = torch.tensor([self.index[row] for row in rows])
        chosen = self.hidden.index_select(0, to_device(places, self.hidden.device))
        most = torch.finfo(torch.float16).max
        made: bytes = chosen.float().clamp(-most, most).half().cpu().numpy().astype("<f2").tobytes()
        return made

    def raw_logits(self, row: int) -> bytes:
        return _raw(self.logits[self.index[row]])

    def top_logits(self, row: int, count: int) -> tuple[tuple[int, float], ...]:
        """Returns the `count` largest logits as pairs of token and logit, descending."""
        values, ids = self.logits[self.index[row]].float().topk(min(count, self.logits.shape[1]))
        return tuple(zip(ids.tolist(), values.tolist(), strict=True))


def choose_for(
    batch: Batch, measured: Later[Choices], logits: Tensor, hidden: Tensor, index: Sequence[int]
) -> Later[Outcome]:
    """Tells the device to choose tokens; `index` says which rows of `logits` and `hidden` the batch asked for."""
    samplings = [row.run.request.sampling for row in batch.asked]
    positions = [batch.positions[place] + 1 for place in batch.wanted]

    def answer_of(place: int) -> Counted:
        return batch.asked[place].run.answer_until(positions[place])

    choices = choose(measured, logits, index, samplings, positions, answer_of)
    handoffs = [row.run.request.handoff for row in batch.asked]
    by_margin = [place for place, handoff in enumerate(handoffs) if handoff and handoff.signal is Signal.MARGIN]
    values = margins(logits, [index[place] for place in by_margin]) if by_margin else list
    counts = {place: num for place, row in enumerate(batch.asked) if (num := row.run.request.top_logprobs)}
    others = most_probable(logits, [index[place] for place in counts], [*counts.values()]) if counts else list
    return lambda: Outcome(
        choices(),
        logits,
        hidden,
        index,
        dict(zip(by_margin, values(), strict=True)),
        dict(zip(counts, others(), strict=True)),
        batch.stuck,
    )


def nothing() -> None:
    """Reads what a step leaves that nobody asked for anything."""


def _raw(values: Tensor) -> bytes:
    return values.float().cpu().numpy().astype("<f4").tobytes()
