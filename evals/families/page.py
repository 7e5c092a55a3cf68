"""The outcomes as tables: for the terminal, and for docs/models.md with the families that people use most on top."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import transformers
from rich.table import Table

from evals.families.check import Outcome, Verdict
from evals.figures.provenance import ROOT, line, provenance
from evals.figures.report import Row, markdown_table, replace_section, terminal_table

PAGE = ROOT / "docs" / "models.md"
_SECTION = "families"
_ORDER = (Verdict.WRONG, Verdict.EXACT, Verdict.REFUSED, Verdict.NOT_BUILT)

# What people use most, as its weights are called; the order is that of the page.
WELL_KNOWN = {
    "llama": "Llama 2, 3; DeepSeek-R1-Distill-Llama, SmolLM2, Yi",
    "qwen2": "Qwen2, Qwen2.5, QwQ; DeepSeek-R1-Distill-Qwen",
    "qwen3": "Qwen3",
    "qwen3_moe": "Qwen3 with experts (30B-A3B, 235B-A22B)",
    "qwen2_moe": "Qwen1.5-MoE, Qwen2-57B-A14B",
    "qwen3_next": "Qwen3-Next",
    "qwen3_5_text": "Qwen3.5",
    "qwen3_5_moe_text": "Qwen3.5 with experts",
    "mistral": "Mistral 7B, Nemo",
    "mixtral": "Mixtral 8x7B, 8x22B",
    "ministral": "Ministral 8B",
    "ministral3": "Ministral 3",
    "gemma": "Gemma",
    "gemma2": "Gemma 2",
    "gemma3_text": "Gemma 3 1B",
    "gemma3": "Gemma 3 4B to 27B, text alone",
    "gemma3n_text": "Gemma 3n",
    "gemma4_text": "Gemma 4",
    "phi": "Phi 1.5, 2",
    "phi3": "Phi 3, 3.5, 4",
    "phimoe": "Phi 3.5 MoE",
    "gpt_oss": "gpt-oss 20B, 120B",
    "llama4_text": "Llama 4",
    "olmo2": "OLMo 2",
    "olmo3": "Olmo 3",
    "olmoe": "OLMoE",
    "cohere": "Command R",
    "cohere2": "Command R7B, Command A",
    "exaone4": "EXAONE 4",
    "granite": "Granite 3",
    "granitemoe": "Granite 3 with experts",
    "granitemoehybrid": "Granite 4",
    "deepseek_v2": "DeepSeek V2, Coder V2",
    "deepseek_v3": "DeepSeek V3, R1; Kimi K2",
    "deepseek_v32": "DeepSeek V3.2",
    "glm": "GLM-4 9B",
    "glm4": "GLM-4 0414, Z1",
    "glm4_moe": "GLM-4.5, 4.6",
    "glm_moe_dsa": "GLM-5",
    "minimax_m2": "MiniMax M2",
    "kimi_linear": "Kimi Linear",
    "hunyuan_v1_dense": "Hunyuan dense",
    "seed_oss": "Seed-OSS",
    "smollm3": "SmolLM3",
    "starcoder2": "StarCoder2",
    "ernie4_5": "ERNIE 4.5",
    "ernie4_5_moe": "ERNIE 4.5 with experts",
    "lfm2": "LFM2",
    "nemotron": "Nemotron-4, Minitron",
    "nemotron_h": "Nemotron-H, Nemotron Nano 2 and 3",
    "falcon_h1": "Falcon-H1",
    "jamba": "Jamba",
    "mamba": "Mamba",
    "gpt2": "GPT-2",
    "gpt_neox": "GPT-NeoX, Pythia",
    "opt": "OPT",
    "bloom": "BLOOM",
}


def counts(outcomes: Sequence[Outcome]) -> dict[Verdict, int]:
    """Returns how many families there are of each verdict."""
    found = Counter(outcome.verdict for outcome in outcomes)
    return {verdict: found[verdict] for verdict in _ORDER}


def recorded_exact() -> int:
    """Returns how many families are exact as the page says it. Raises ValueError if it says nothing."""
    found = re.search(r"^(\d+) of \d+ families are served exactly", PAGE.read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"{PAGE}: it names no number of families")
    return int(found[1])


def table(outcomes: Sequence[Outcome]) -> Table:
    """Returns a row per family, the wrong ones first."""
    rows = [_row(outcome) for outcome in sorted(outcomes, key=lambda each: (_ORDER.index(each.verdict), each.family))]
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts(outcomes).items())
    columns = {"family": "{family}", "": "{verdict}", "in": "{dtype}", "layers see or keep": "{sees}", "why": "{why}"}
    return terminal_table(said, columns, rows)


def write(outcomes: Sequence[Outcome]) -> None:
    """Puts the tables into docs/models.md."""
    replace_section(PAGE, _SECTION, text(outcomes))


def text(outcomes: Sequence[Outcome]) -> str:
    """Returns the section: how many, the well-known ones, the others, and why those that are not served are not."""
    by_family = {outcome.family: outcome for outcome in outcomes}
    found = counts(outcomes)
    known = [by_family[family] for family in WELL_KNOWN if family in by_family]
    others = sorted((each for each in outcomes if each.family not in WELL_KNOWN), key=lambda each: each.family)
    exact = ", ".join(f"`{each.family}`" for each in others if each.verdict is Verdict.EXACT)
    parts = [
        f"{found[Verdict.EXACT]} of {len(outcomes)} families are served exactly, {found[Verdict.REFUSED]} are refused, "
        f"{found[Verdict.NOT_BUILT]} could not be examined; transformers {transformers.__version__}.",
        "## What people use most",
        markdown_table(
            {
                "family": "`{family}`",
                "weights": lambda row: WELL_KNOWN[row["family"]],
                "served": lambda row: "yes" if row["verdict"] == Verdict.EXACT else f"{row['verdict']}: {row['why']}",
                "layers see or keep": "{sees}",
            },
            [_row(each) for each in known],
        ),
        "## The other families",
        f"Exact, too: {exact}.",
        _reasons("Refused, in the engine's words:", others, Verdict.REFUSED),
    ]
    if wrong := [each for each in outcomes if each.verdict is Verdict.WRONG]:
        parts.append(_reasons("**Served wrong:**", wrong, Verdict.WRONG))
    if found[Verdict.NOT_BUILT]:
        title = "No tiny model of them could be made, or transformers itself does not generate with it:"
        parts += ["## What could not be examined", _reasons(title, outcomes, Verdict.NOT_BUILT)]
    parts.append(line(provenance()))
    return "\n\n".join(parts)


def _reasons(title: str, outcomes: Sequence[Outcome], verdict: Verdict) -> str:
    """Returns a list of reasons, the most frequent first, and the families of each."""
    families: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.verdict is verdict:
            families.setdefault(_one_line(outcome.why), []).append(f"`{outcome.family}`")
    reasons = sorted(families.items(), key=lambda item: (-len(item[1]), item[0]))
    return "\n".join([f"{title}\n", *(f"- {why}: {', '.join(sorted(names))}" for why, names in reasons)])


def _row(outcome: Outcome) -> Row:
    return {
        "family": outcome.family,
        "verdict": outcome.verdict,
        "dtype": outcome.dtype,
        "sees": outcome.sees,
        "why": _one_line(outcome.why),
    }


def _one_line(why: str) -> str:
    """Returns words that stand in a table, without the size of a difference, which would tell equal reasons apart."""
    plain = why.replace("|", "/").replace("<", "").replace(">", "")
    return re.sub(r" by \d\S*, more than \S+;", ";", plain)
