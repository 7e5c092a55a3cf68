"""What a worker of each role is: from a latency model that was measured, or from a config and the cards it runs on."""

from __future__ import annotations

from collections.abc import Mapping

from evals.latency.formulas import ModelLatency
from evals.latency.model import LatencyModel
from evals.plan.cards import Card, card
from evals.plan.fleet import Beside, Model
from evals.plan.load import ROLES, Role
from evals.plan.options import PlanOptions
from evals.plan.steps import Measured, Roofline
from model_worker.engine.errors import UnsupportedModel
from rstitch.errors import invalid

_MAX_ROWS = 512  # a worker's --max-batch-tokens
_KV_TOKENS = 1 << 17  # of a file that does not say


def models_of(options: PlanOptions) -> dict[Role, Model]:
    """Both models of the options. Raises RstitchError that names the flag."""
    found = _loaded(options)
    if found is None:
        cards = {role: card(getattr(options, f"{role}_card") or options.card, f"--{role}-card") for role in ROLES}
        return {role: _by_config(role, cards[role], options) for role in ROLES}
    latencies: Mapping[Role, ModelLatency] = {"slm": found.slm, "llm": found.llm}
    return {role: measured(latencies[role], options.max_rows, options.kv_tokens) for role in ROLES}


def beside_of(options: PlanOptions) -> Beside:
    """What answers take beside steps: of the options, else as it was measured, else as docs/performance.md has it."""
    answer_ms, switch_ms = options.answer_ms, options.switch_ms
    found = _loaded(options)
    serving = found.serving if found is not None else None
    if serving is not None:
        answer_ms = serving.answer_ms if answer_ms is None else answer_ms
        switch_ms = serving.call_ms if switch_ms is None else switch_ms
    default = Beside()
    return Beside(
        default.answer_ms if answer_ms is None else answer_ms,
        default.switch_ms if switch_ms is None else switch_ms,
        options.router_us,
        options.gateway_ms,
        options.worker_us,
        serving.token_ms + serving.beside_ms if serving is not None else 0.0,
        options.cores,
    )


def measured(latency: ModelLatency, max_rows: int = 0, kv_tokens: int = 0) -> Model:
    """A worker whose calls were measured; rows and cache are those that it had, where none are given.

    Raises RstitchError where its steps of several rows were not.
    """
    try:
        steps = Measured(latency)
    except ValueError as error:
        raise invalid("--latency-model", f"{error}.", "Make it anew: rstitch latency.") from None
    rows = max_rows or int(latency.facts.get("max_batch_tokens", _MAX_ROWS))
    return Model(steps, rows, kv_tokens or int(latency.facts.get("kv_tokens", _KV_TOKENS)))


def _loaded(options: PlanOptions) -> LatencyModel | None:
    if options.latency_model is None:
        return None
    try:
        return LatencyModel.load(options.latency_model)
    except ValueError as error:
        raise invalid("--latency-model", f"{error}.", "Or name --slm and --llm with their cards.") from None


def _by_config(role: Role, on: Card, options: PlanOptions) -> Model:
    # These load torch and transformers, which whoever has a file does not need.
    from evals.fits.presets import CONFIGS
    from evals.fits.sizing import SESSION_TOKENS, sized
    from model_worker.engine.forward.memory import room_for_cache

    name = getattr(options, role)
    known = f"Name one of {', '.join(CONFIGS)}, a folder or a hub id."
    if not name:
        raise invalid(f"--{role}", "no model is named.", f"{known} Or give --latency-model.")
    try:
        model = sized(name)
    except UnsupportedModel as error:
        raise invalid(f"--{role}", str(error), known) from None
    precision = getattr(options, f"{role}_precision") or next(
        (kind for kind in model.weights if kind not in ("bf16", "int8", "int4")), "bf16"
    )
    if precision not in model.weights:
        what, remedy = f"{name} is not for {precision!r}.", f"Choose of {', '.join(model.weights)}."
        raise invalid(f"--{role}-precision", what, remedy)
    count = getattr(options, f"{role}_cards")
    weights, total = model.weights[precision], round(on.memory_gb * 1e9) * count
    kv_tokens = room_for_cache(total - weights) * SESSION_TOKENS // model.session_bytes() if total > weights else 0
    if kv_tokens < options.answers.kept_tokens:
        what = (
            f"{name} in {precision} takes {weights / 1e9:.1f} GB: {count} x {on.name} has no room for a session, too."
        )
        raise invalid(
            f"--{role}-cards", what, f"Give more cards, a larger --{role}-card, or fewer bits: --{role}-precision."
        )
    steps = Roofline(model, weights, on, count, options.bandwidth_share, options.ops_share, options.overhead_ms)
    return Model(steps, options.max_rows or _MAX_ROWS, options.kv_tokens or int(kv_tokens), count)
