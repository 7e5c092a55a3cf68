"""The options that planning and simulating have in common: models, cards, answers. It computes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from evals.asking.values import with_unit
from evals.plan.fleet import Beside
from evals.plan.load import Answers
from evals.plan.steps import BANDWIDTH_SHARE, OPS_SHARE, OVERHEAD_MS

_MODELS, _ANSWERS, _COSTS = "The models", "The answers", "What it is computed from"
_A = Answers()
_B = Beside()


def _model(role: str) -> Any:
    told = f"The {role.upper()}: one that `rstitch fits` knows, a folder, or a hub id."
    return typer.Option(f"--{role}", metavar="MODEL", help=told, rich_help_panel=_MODELS, show_default=False)


def _card_of(role: str) -> Any:
    told = f"Of the {role.upper()}'s workers, if not --card."
    return typer.Option(metavar="NAME", help=told, rich_help_panel=_MODELS, show_default=False)


def _cards_of(role: str) -> Any:
    return typer.Option(min=1, help=f"That one {role.upper()} worker is spread over.", rich_help_panel=_MODELS)


def _precision_of(role: str) -> Any:
    told = f"Of the {role.upper()}: bf16, int8 or int4."
    return typer.Option(metavar="NAME", help=told, rich_help_panel=_MODELS, show_default="bf16, or as its folder comes")


def _least(help: str, panel: str, least: float = 0.0, **more: Any) -> Any:
    return typer.Option(min=least, help=help, rich_help_panel=panel, **more)


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What `rstitch plan` is told of models, cards and answers, before it is checked."""

    slm: Annotated[str | None, _model("slm")] = None
    llm: Annotated[str | None, _model("llm")] = None
    card: Annotated[
        str, typer.Option(metavar="NAME", help="Of both, or GB,GB/S,10^12 OPS/S.", rich_help_panel=_MODELS)
    ] = "h100"
    slm_card: Annotated[str | None, _card_of("slm")] = None
    llm_card: Annotated[str | None, _card_of("llm")] = None
    slm_cards: Annotated[int, _cards_of("slm")] = 1
    llm_cards: Annotated[int, _cards_of("llm")] = 1
    slm_precision: Annotated[str, _precision_of("slm")] = ""
    llm_precision: Annotated[str, _precision_of("llm")] = ""
    latency_model: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Of `rstitch latency`: measured workers instead.", rich_help_panel=_MODELS,
            show_default=False,
        ),
    ] = None  # fmt: skip
    tokens: Annotated[float, _least("Of an answer, on average.", _ANSWERS)] = _A.tokens
    tokens_cv: Annotated[float, _least("Their standard deviation over the average.", _ANSWERS)] = _A.cv
    prompt_tokens: Annotated[float, _least("That an answer computes before its first.", _ANSWERS)] = _A.prompt_tokens
    held_tokens: Annotated[float, _least("Of earlier turns, which a worker still has.", _ANSWERS)] = _A.held_tokens
    llm_share: Annotated[
        float | None,
        typer.Option(
            parser=with_unit("%", "0.2 or 20%"), metavar="SHARE", help="Of the tokens.", rich_help_panel=_ANSWERS,
            show_default=f"{_A.llm_share:.0%}",
        ),
    ] = None  # fmt: skip
    switches: Annotated[float, _least("In 100 tokens, both directions together.", _ANSWERS)] = _A.switches
    max_rows: Annotated[
        int, _least("Rows of a step; 0: --max-batch-tokens of the workers, or as many as fit.", _COSTS, 0)
    ] = 0
    kv_tokens: Annotated[int, _least("Of a worker's cache; 0: what its cards leave.", _COSTS, 0)] = 0
    bandwidth_share: Annotated[float, _least("Of a card's bandwidth that steps reach.", _COSTS, 0.01, max=1)] = (
        BANDWIDTH_SHARE
    )
    ops_share: Annotated[float, _least("Of its operations.", _COSTS, 0.01, max=1)] = OPS_SHARE
    overhead_ms: Annotated[float, _least("Of the host, in each step.", _COSTS)] = OVERHEAD_MS
    answer_ms: Annotated[
        float | None,
        _least("That an answer takes beside steps.", _COSTS, show_default=f"measured, else {_B.answer_ms}"),
    ] = None
    switch_ms: Annotated[
        float | None, _least("That a switch takes.", _COSTS, show_default=f"measured, else {_B.switch_ms}")
    ] = None
    router_us: Annotated[float, _least("CPU of a router by a token.", _COSTS)] = _B.router_us
    gateway_ms: Annotated[float, _least("CPU of a gateway by an answer.", _COSTS)] = _B.gateway_ms
    worker_us: Annotated[float, _least("CPU by a token outside of steps and router, with --cores.", _COSTS)] = (
        _B.worker_us
    )
    cores: Annotated[
        float, _least("Of the one machine that all of it shares; 0: each worker has what it needs.", _COSTS)
    ] = _B.cores

    @property
    def answers(self) -> Answers:
        """What answers are like. Raises RstitchError for what cannot be."""
        share = _A.llm_share if self.llm_share is None else self.llm_share
        return Answers(self.tokens, self.tokens_cv, self.prompt_tokens, self.held_tokens, share, self.switches)
