"""Takes tokens away from a model's distributions: what is measured, drawn and returned is of those that are left.

It works on what a forward has left, outside compiled code and captured graphs, and only where a row asks for it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from model_worker.engine.bookkeeping.masks import MAX_MASKS, Mask
from model_worker.engine.forward.sampling import Choices
from model_worker.engine.forward.transfer import Later, to_device


class Masking:
    """Masks distributions over `vocab_size` tokens; keeps the ids of the masks used last on the device."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._device = device
        self._ids: OrderedDict[Mask, Tensor] = OrderedDict()

    def measured(
        self,
        logits: Tensor,
        rows: Mapping[Mask, Sequence[int]],
        num_asked: int,
        own: Later[Choices] | None,
        measure: Callable[[Tensor], Later[Choices]],
    ) -> Later[Choices]:
        """Puts -inf into the masked rows of `logits` [n, vocab_size], in place; returns what is measured of all rows.

        `own` is what was measured before; None: nothing was. `num_asked` of the rows are anybody's.
        """
        masked = [row for of_mask in rows.values() for row in of_mask]
        if len(rows) == 1 and len(masked) == num_asked:  # as a rule; the other rows only fill a shape up
            (mask,) = rows
            logits.index_fill_(1, self._of(mask), -math.inf)
            own, again = measure(logits), None
        else:
            on_device = to_device(torch.tensor(masked), self._device)
            nothing = logits.new_full((1, 1), -math.inf)
            for mask, part in zip(rows, on_device.split([len(part) for part in rows.values()]), strict=True):
                logits.index_put_((part[:, None], self._of(mask)[None]), nothing)
            again = measure(logits.index_select(0, on_device)) if own is not None else None
            own = own or measure(logits)
        whole = math.log(self._vocab_size)
        scales = [whole / math.log(mask.num_left) for mask, of_mask in rows.items() for _ in of_mask]

        def read() -> Choices:
            found = own()
            choices = Choices(list(found.tokens), list(found.entropies), list(found.logprobs))
            others = again() if again is not None else None
            for place, (row, scale) in enumerate(zip(masked, scales, strict=True)):
                if others is not None:
                    choices.tokens[row], choices.logprobs[row] = others.tokens[place], others.logprobs[place]
                    choices.entropies[row] = others.entropies[place]
                choices.entropies[row] *= scale
            return choices

        return read

    def _of(self, mask: Mask) -> Tensor:
        ids = self._ids.get(mask)
        if ids is None:
            ids = self._ids[mask] = to_device(torch.tensor(mask.tokens), self._device)
            if len(self._ids) > MAX_MASKS:
                self._ids.popitem(last=False)
        self._ids.move_to_end(mask)
        return ids
