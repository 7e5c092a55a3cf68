"""Draws answers: text coloured by model, the entropy strip, switches, usage. It fetches nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from rstitch.client.types import Answer, Finished, Model, Segment, Source, Switch, SwitchReason, Usage

_DISCARDED = "discarded"
STYLES = {"slm": "cyan", "llm": "bold magenta", "prompt": "dim", "unspecified": "", _DISCARDED: "yellow"}
_WIDTH_BESIDE_TEXT = 62
_BLOCKS = "▁▂▃▄▅▆▇█"
_MOST_LINES = 3  # of a strip that is folded
# Reasons for which the SLM's proposal was discarded by its entropy, which the switch then says.
_DISCARDING = (SwitchReason.ENTROPY_ABOVE, SwitchReason.HEAD)

# A token's model, or that it was proposed and discarded, and its entropy.
Written = tuple[str, float]


def legend() -> Text:
    """Says which model has which colour."""
    return Text.assemble(("■", STYLES["slm"]), " SLM  ", ("■", STYLES["llm"]), " LLM")


def discarded(to: Model | Source, reason: SwitchReason, entropy: float) -> list[Written]:
    """Gives the token that the SLM proposed and that a switch to the LLM discarded, for the strip; [] without one."""
    return [(_DISCARDED, entropy)] if to in (Model.LLM, Source.LLM) and reason in _DISCARDING else []


def written(answer: Answer) -> list[Written]:
    """Gives the strip's tokens of a whole answer, those that were discarded among them."""
    made: list[Written] = []
    switches = list(answer.switches)
    for chunk in answer.chunks:
        while switches and switches[0].position <= chunk.position:
            switch = switches.pop(0)
            made += discarded(switch.to_model, switch.reason, switch.entropy)
        made += [(chunk.model.value, entropy) for entropy in chunk.entropies]
    return made


def style_of(model: Model | Source) -> str:
    """Names the style that a model's text is printed in."""
    return STYLES[model.value]


def entropy_strip(tokens: Sequence[Written]) -> Text:
    """Draws a block per token, as high as the square root of its entropy (small ones matter), coloured by model."""
    highest = max((entropy for _, entropy in tokens), default=0.0)
    strip = Text()
    for model, entropy in tokens:
        part = math.sqrt(max(0.0, entropy) / highest) if highest > 0 else 0.0
        strip.append(_BLOCKS[round(part * (len(_BLOCKS) - 1))], style=STYLES[model])
    return strip


def entropy_line(tokens: Sequence[Written], width: int | None = None) -> Text:
    """Puts the scale above the strip, which `width` folds to three lines of so many blocks; None: a block per token."""
    highest = max((entropy for _, entropy in tokens), default=0.0)
    size = 1 if width is None else max(1, math.ceil(len(tokens) / (width * _MOST_LINES)))
    per = "token" if size == 1 else f"{size} tokens (the highest)"
    text = Text(f"entropy, one block per {per}, █ = {highest:.3f}", style="dim")
    if any(kind == _DISCARDED for kind, _ in tokens):
        text = Text.assemble(text, "  ", ("■", STYLES[_DISCARDED]), (" discarded proposal", "dim"))
    return Text.assemble(text, "\n", entropy_strip(_folded(tokens, size)))


def _folded(tokens: Sequence[Written], size: int) -> Sequence[Written]:
    """Takes of each `size` tokens the one with the highest entropy."""
    return [max(tokens[i : i + size], key=lambda token: token[1]) for i in range(0, len(tokens), size)]


def switch_list(switches: Sequence[Switch], at_most: int = 12) -> Iterable[Text]:
    """Yields a line per switch: where it was, between whom and why; the last one says how many more there are."""
    for switch in switches[:at_most]:
        before, after = ((model.upper(), style_of(model)) for model in (switch.from_model, switch.to_model))
        why = _why(switch.reason, switch.entropy)
        yield Text.assemble((f"@{switch.position:<5}", "dim"), before, " → ", after, (f"  {why}", "dim"))
    if len(switches) > at_most:
        yield Text(f"… and {len(switches) - at_most} more (--json has all)", style="dim")


def usage_table(finished: Finished) -> Table:
    """Lays out what an answer took in two columns of facts."""
    usage = finished.usage
    slm, llm = (f"SLM {usage.num_slm_tokens}", STYLES["slm"]), (f"LLM {usage.num_llm_tokens}", STYLES["llm"])
    tokens = Text.assemble(f"{usage.num_tokens} (", slm, ", ", llm, ")")
    writing = f"{seconds(usage.slm_time_us)} / {seconds(usage.llm_time_us)}"
    table = Table.grid(padding=(0, 2))
    for style in ("dim", "", "dim", ""):
        table.add_column(style=style)
    table.add_row("tokens", tokens, "time", seconds(usage.total_time_us))
    table.add_row("LLM share", share(usage), "first token", seconds(usage.time_to_first_token_us))
    table.add_row("switches", str(usage.num_switches), "SLM / LLM wrote", writing)
    table.add_row("discarded proposals", str(usage.num_discarded_proposals), "ended by", finished.reason.value)
    table.add_row("catch-up tokens", str(usage.num_catch_up_tokens), "of them cached", str(usage.num_cached_tokens))
    return table


def segments_table(segments: Sequence[Segment], width: int) -> Table:
    """Makes a table with a row per segment, whose texts are cut to what `width` leaves them."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("position", "by", "tokens", "began because", "text"):
        table.add_column(name, justify="right" if name in ("position", "tokens") else "left", no_wrap=True)
    for segment in segments:
        began = _why(segment.reason, segment.switch_entropy)
        by = Text(segment.source.upper(), style=style_of(segment.source))
        text = Text(repr(segment.text)[1:-1])
        text.truncate(max(16, width - _WIDTH_BESIDE_TEXT), overflow="ellipsis")
        table.add_row(str(segment.position), by, str(len(segment.tokens)), began, text)
    return table


def share(usage: Usage) -> str:
    """Writes the part of the tokens that the LLM wrote, in percent."""
    return f"{100 * usage.llm_share:.0f}%"


def seconds(microseconds: int) -> str:
    """Writes a time in seconds from one second on, below in milliseconds."""
    return f"{microseconds / 1e6:.2f} s" if microseconds >= 1_000_000 else f"{microseconds / 1e3:.0f} ms"


def endings(finished: Finished) -> Iterable[str]:
    """Yields a line for each thing beside the policy that bounded the answer."""
    if finished.budget_spent:
        yield f"budget spent: {' and '.join(finished.budget_spent)}"
    if finished.early_exit is not None:
        yield f"thinking ended early @{finished.early_exit.position}, confidence {finished.early_exit.confidence:.3f}"


def _why(reason: SwitchReason, value: float) -> str:
    return {
        SwitchReason.ENTROPY_ABOVE: f"entropy {value:.4f} above tau",
        SwitchReason.ENTROPY_BELOW: f"entropy {value:.4f} at or below tau",
        SwitchReason.UNCERTAINTY_ABOVE: f"uncertainty {value:.4f} above tau",
        SwitchReason.UNCERTAINTY_BELOW: f"uncertainty {value:.4f} at or below tau",
        SwitchReason.HEAD: f"entropy {value:.4f}, the head said so",
        SwitchReason.COIN: "by the coin",
        SwitchReason.VERIFICATION: "after the draft's accepted tokens",
        SwitchReason.DRAFT: "the next draft",
        SwitchReason.BUDGET: "the budget is spent",
        SwitchReason.UNSPECIFIED: "",
    }[reason]
