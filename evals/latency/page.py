"""The tables of docs/latency_model.md. It measures nothing."""

from __future__ import annotations

import json

from evals.figures.provenance import ROOT, line
from evals.figures.report import Columns, Row, markdown_table, replace_section
from evals.latency.check import COLUMNS, WITHIN, Checked, as_dict
from evals.latency.model import LatencyModel

DOCUMENT = ROOT / "docs" / "latency_model.md"
RESULTS = ROOT / "docs" / "results"

FORMULAS: Columns = {
    "formula": lambda row: row["formula"],
    "us": lambda row: row["us"],
    "calls": lambda row: str(row["num_calls"]),
    "R²": lambda row: f"{row['r2']:.3f}",
    "median error": lambda row: f"{row['median_error']:.1%}",
}


def formula_rows(model: LatencyModel) -> list[Row]:
    """Both formulas of both models."""
    rows = []
    for name, latency in (("SLM", model.slm), ("LLM", model.llm)):
        prefill, decode = latency.prefill_coefficients, latency.decode_coefficients
        us = [f"{1000 * value:.3g}" for value in (prefill.a, prefill.b, prefill.c, prefill.d, decode.c, decode.d)]
        texts = {
            "prefill": f"{us[0]} N_inf N_kv + {us[1]} N_inf² + {us[2]} N_inf + {us[3]}",
            "decode": f"{us[4]} N_kv + {us[5]}",
        }
        for kind, text in texts.items():
            fit = latency.fits[kind]
            rows.append({
                "formula": f"{name}, {kind}", "us": text, "num_calls": fit.num_calls,
                "r2": fit.r2, "median_error": fit.median_error,
            })  # fmt: skip
    return rows


def write(model: LatencyModel, checked: Checked | None) -> None:
    """Replaces the sections; what was not measured now stays as it is."""
    facts = {key: str(value) for key, value in model.facts.items()}
    lines = [markdown_table(FORMULAS, formula_rows(model)), ""]
    if model.serving and model.serving.fit:
        serving, fit = model.serving, model.serving.fit
        lines += [
            f"Serving adds {serving.answer_ms:.2f} ms an answer, {serving.call_ms:.2f} ms each time a model is given "
            f"the pen, {serving.token_ms:.3f} ms a step and {serving.beside_ms:.3f} ms more a step where two models "
            f"write ({fit.num_calls} answers, R² {fit.r2:.3f}).",
            "",
        ]
    lines += [line(facts), "", "![calls and residuals](results/latency.png)"]
    replace_section(DOCUMENT, "latency", "\n".join(lines))
    if checked is None:
        return
    error = checked.median_error
    text = [
        markdown_table(COLUMNS, checked.rows()),
        "",
        f"Median error {error.value:.1%} [{error.low:.1%}, {error.high:.1%}] (bootstrap, 95%) over "
        f"{len(checked.answers)} answers; target {WITHIN:.0%}: {'met' if error.value <= WITHIN else '**missed**'}. "
        f"Rank correlation (Spearman) of the calls alone with what was measured: {checked.rank_correlation:.3f}.",
        "",
        line(facts),
        "",
        "![modelled over measured](results/latency_check.png)",
    ]
    replace_section(DOCUMENT, "latency-check", "\n".join(text))
    (RESULTS / "latency_check.json").write_text(json.dumps(as_dict(checked) | {"facts": model.facts}, indent=1) + "\n")
