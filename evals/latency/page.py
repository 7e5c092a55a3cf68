"""The tables of docs/latency_model.md. It measures nothing."""

from __future__ import annotations

import json
from dataclasses import asdict, astuple

from evals.figures.provenance import ROOT, line
from evals.figures.report import Columns, Row, interval, markdown_table, replace_section
from evals.latency.check import WITHIN, Checked
from evals.latency.model import LatencyModel

DOCUMENT = ROOT / "docs" / "latency_model.md"
RESULTS = ROOT / "docs" / "results"

FORMULAS: Columns = {
    "formula": "{formula}",
    "us": "{us}",
    "calls": "{num_calls}",
    "R²": "{r2:.3f}",
    "median error": "{median_error:.1%}",
}
ANSWERS: Columns = {
    "system": "{system}",
    "n": "{n}",
    "measured ms": "{measured_ms:.1f}",
    "modelled ms": "{modelled_ms:.1f}",
    "calls alone ms": "{calls_ms:.1f}",
    "median error": interval("error", ".1%"),
    "median bias": "{bias:+.1%}",
}


def formula_rows(model: LatencyModel) -> list[Row]:
    """Makes a row of each formula of each model."""
    rows = []
    for name, latency in (("SLM", model.slm), ("LLM", model.llm)):
        coefficients = (*astuple(latency.prefill_coefficients), *astuple(latency.decode_coefficients))
        us = [f"{1000 * value:.3g}" for value in coefficients]
        prefill = f"{us[0]} N_inf N_kv + {us[1]} N_inf² + {us[2]} N_inf + {us[3]}"
        for kind, text in {"prefill": prefill, "decode": f"{us[4]} N_kv + {us[5]}"}.items():
            rows.append({"formula": f"{name}, {kind}", "us": text, **asdict(latency.fits[kind])})
    return rows


def serving_line(model: LatencyModel) -> str:
    """What serving adds, as a sentence; "" if it was not measured."""
    serving = model.serving
    if serving is None:
        return ""
    fit = f" ({serving.fit.num_calls} answers, R² {serving.fit.r2:.3f})" if serving.fit else ""
    return (
        f"Serving adds {serving.answer_ms:.2f} ms an answer, {serving.call_ms:.2f} ms each time a model begins to "
        f"write, {serving.token_ms:.3f} ms a step and {serving.beside_ms:.3f} ms more a step where two models "
        f"write{fit}."
    )


def check_line(checked: Checked) -> str:
    """How far modelled answers are from measured ones, as a sentence."""
    error = checked.median_error
    return (
        f"Median error {error.value:.1%} [{error.low:.1%}, {error.high:.1%}] (bootstrap, 95%) over "
        f"{len(checked.answers)} answers; target {WITHIN:.0%}: {'met' if error.value <= WITHIN else '**missed**'}. "
        f"Rank correlation (Spearman) of the calls alone with what was measured: {checked.rank_correlation:.3f}."
    )


def write(model: LatencyModel, checked: Checked | None) -> None:
    """Replaces the sections; what was not measured now stays as it is."""
    facts = line({key: str(value) for key, value in model.facts.items()})
    formulas = markdown_table(FORMULAS, formula_rows(model))
    lines = [formulas, serving_line(model), facts, "![calls and residuals](results/latency.png)"]
    replace_section(DOCUMENT, "latency", "\n\n".join(filter(None, lines)))
    if checked is None:
        return
    table = markdown_table(ANSWERS, checked.rows())
    lines = [table, check_line(checked), facts, "![modelled over measured](results/latency_check.png)"]
    replace_section(DOCUMENT, "latency-check", "\n\n".join(lines))
    found = {
        "rows": checked.rows(),
        "rank_correlation_of_calls": checked.rank_correlation,
        "target_median_error": WITHIN,
        "facts": model.facts,
    }
    (RESULTS / "latency_check.json").write_text(json.dumps(found, indent=1) + "\n")
