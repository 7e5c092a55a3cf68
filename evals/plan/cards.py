"""GPUs as their makers describe them: memory, its bandwidth, dense bfloat16. It knows no model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rstitch.errors import invalid


@dataclass(frozen=True, slots=True)
class Card:
    """One GPU: memory in GB, its bandwidth in GB a second, 10^12 dense operations a second in bfloat16."""

    name: str
    memory_gb: float
    bandwidth_gb_s: float
    tera_ops: float


# From the data sheets, SXM where there are several.
CARDS = {
    card.name: card
    for card in (
        Card("l4", 24, 300, 121),
        Card("a10", 24, 600, 125),
        Card("rtx4090", 24, 1008, 165),
        Card("l40s", 48, 864, 362),
        Card("a100-40", 40, 1555, 312),
        Card("a100-80", 80, 2039, 312),
        Card("h100", 80, 3350, 989),
        Card("h200", 141, 4800, 989),
        Card("b200", 180, 8000, 2250),
        Card("mi300x", 192, 5300, 1307),
    )
}


def card(text: str, flag: str) -> Card:
    """Finds a card by its name, or makes one of `GB,GB/S,TERA-OPS`. Raises RstitchError that names the flag."""
    if text in CARDS:
        return CARDS[text]
    try:
        memory, bandwidth, ops = (float(part) for part in text.split(","))
    except ValueError:
        memory = bandwidth = ops = math.nan
    if not all(0 < value < math.inf for value in (memory, bandwidth, ops)):
        remedy = f"Name one of {', '.join(CARDS)}, or GB of memory, GB/s and 10^12 operations/s, such as 80,3350,989."
        raise invalid(flag, f"{text!r} is no card that is known here.", remedy)
    return Card(text, memory, bandwidth, ops)
