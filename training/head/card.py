"""What ships with a head: its weights, a card, the curves of its training, the dev frontier. It measures nothing.

Figures are of the dev split only: the test split is for whoever wants to know how good the head is, by the command that
the card names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evals.figures.plotting import COLOURS, panels, save
from evals.figures.provenance import line, provenance
from evals.figures.report import Columns, Row, markdown_table
from rstitch.service.head import Head
from training.head import frontier
from training.head.effort import Effort
from training.head.evaluate import Figures
from training.head.frontier import Point
from training.head.progress import spare_in_words
from training.head.promise import Choice
from training.head.questions import Questions
from training.head.recipe import Recipe

WEIGHTS, CARD, CURVES, DEV = "head.safetensors", "README.md", "training.jsonl", "dev.json"
CURVES_PLOT, DEV_PLOT = "training.png", "frontier.png"
_SHOWN = {
    "reward": "reward", "accuracy": "accuracy", "latency_ms": "modelled latency, ms", "llm_share": "LLM share",
    "price": "lambda, per ms",
}  # fmt: skip
_LOOKS: Columns = {
    "after step": "{step}",
    "accuracy %": "{accuracy:.1p} [{low:.1p}, {high:.1p}]",
    "modelled ms": "{latency_ms:sig}",
    "LLM %": "{llm_share:.1p}",
    "calls of the head": "{num_consultations:.1f}",
}
# In digits that matter: most states of a good head are of a probability that would be 0.0%.
_CALIBRATION: Columns = {
    "P(the SLM's token is wrong) says, %": lambda row: f"{100 * row['low']:.2g} to {100 * row['high']:.3g}",
    "states": "{n}",
    "on average": lambda row: f"{100 * row['said']:.3g}",
    "wrong": lambda row: f"{100 * row['wrong']:.3g}",
}


@dataclass(frozen=True, slots=True)
class Training:
    """What a card tells of a run.

    Attributes:
        models: by role, with device and dtype, such as "tiny-slm (cpu float32)".
        goal: in words, such as "a loss of at most 1.0%".
        curves: a row for each step of DAPO.
        looks: what the head did on dev, by the step after which it was looked at; chosen: the step of this head.
        effort: None: not told.
        name: of the head; "": that of its folder.
        test_command: for the figures of the test split; "": not told.
        latency_of: models, devices and dtypes that the latency model was measured on, if they are others; "": they are
            these.
        calibration: rows of n, low, high, said, wrong; empty: not measured.
    """

    recipe: Recipe
    models: Mapping[str, str]
    questions: Questions
    goal: str
    curves: Sequence[Mapping[str, Any]]
    looks: Mapping[int, Figures]
    chosen: int
    effort: Effort | None = None
    calibration: Sequence[Row] = ()
    name: str = ""
    test_command: str = ""
    latency_of: str = ""


def write_head(folder: Path, head: Head, training: Training, points: Sequence[Point], choice: Choice) -> None:
    """Writes all files; the weights last, for a router may look at any time.

    Args:
        points: the dev frontier; choice: which of its prices is promised what.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CURVES).write_text("".join(f"{json.dumps(row)}\n" for row in training.curves))
    plot_curves(training.curves, folder / CURVES_PLOT)
    title = f"{training.name or folder.name}: dev, n = {points[0].figures.n}"
    frontier.plot(points, title, folder / DEV_PLOT)
    dev = {"points": [asdict(point) for point in points], "choice": asdict(choice), "provenance": provenance()}
    (folder / DEV).write_text(json.dumps(dev, indent=1) + "\n")
    (folder / CARD).write_text(card(training.name or folder.name, head, training, points, choice))
    part = folder / f"{WEIGHTS}.part"
    part.write_bytes(head.data)
    part.replace(folder / WEIGHTS)


def plot_curves(curves: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Reward, accuracy, latency, LLM share and lambda, by step of DAPO."""
    shown = {key: label for key, label in _SHOWN.items() if not curves or key in curves[0]}
    figure, axes = panels(1, len(shown), (3.2 * len(shown), 3))
    for axis, (key, label) in zip(axes[0], shown.items(), strict=True):
        axis.plot([row["step"] for row in curves], [row[key] for row in curves], color=COLOURS[0], linewidth=1)
        axis.set(xlabel="step of DAPO", title=label)
        axis.grid(alpha=0.3)
    save(figure, path)


def card(name: str, head: Head, training: Training, points: Sequence[Point], choice: Choice) -> str:
    """Writes the card in Markdown."""
    facts, recipe, n = head.facts, training.recipe, points[0].figures.n
    price = "" if choice.point.value == 1 else f",price={choice.point.value:g}"
    return f"""---
license: apache-2.0
library_name: rstitch
---
# {name}

A head of R-Stitch+ (arXiv 2507.17307) for {training.models["slm"]} beside {training.models["llm"]}: where the
SLM's entropy is above {facts.tau:g} it says whether the LLM writes the position. Version `{head.version}`.

- It sees {_inputs(recipe)}.
- MLP {" x ".join(map(str, head.sizes))} with ReLU, {head.num_parameters:,} parameters, float32; inputs normalised.
- It fits hidden states of {facts.hidden_size} numbers{_tokenizer(head)}.

Ask for it with `--policy learned:{name}{price}`. How it is made and used: docs/rstitch_plus.md of rstitch.

## What is promised

Wanted: {training.goal}. {choice.statement}

{_holds_for(training)}

## Dev split

![frontier]({DEV_PLOT})

{markdown_table(frontier.COLUMNS, [point.row(choice.num_heads) for point in points])}

n = {n}, greedy; accuracy with its 95% interval (Wilson), the difference to LLM-only on the same questions (paired
bootstrap), the loss that it is shown to stay below (95%, Tango{_for_each(choice)}), latency by the latency
model{" that was measured elsewhere (above)" if training.latency_of else ""} with the waiting model caught up beside.

{_looked_at(training, choice)}

{_test_command(training)}

## Training

{_start(recipe)}DAPO: {len(training.curves)} steps of
{recipe.num_questions} questions, {recipe.group_size} answers to each; reward r_acc - lambda * r_acc * L, learning rate
{recipe.lr:g}, seed {recipe.seed}; the language models are frozen.

- Questions: {training.questions.origin.source}, digest `{training.questions.digest}`; {_sides(training.questions)}.
  An answer has at most {training.questions.task.max_new_tokens} tokens and is checked by {_check(training.questions)}.
{_to_spare(training)}- {training.effort.text() if training.effort else "How long it took was not told."}
- {line(provenance())}

![curves]({CURVES_PLOT})
{_calibration(training.calibration)}"""


def _inputs(recipe: Recipe) -> str:
    parts = ["the SLM's last hidden state", "the context length", *recipe.features]
    if recipe.num_readout:
        read = f"what the SLM thinks of {recipe.num_readout} tokens by its LM head"
        parts.append(f"{read} (the four largest log-probabilities, the entropy)")
    ours = "" if len(parts) == 2 else "; the paper's are the first two"
    return f"{', '.join(parts[:-1])} and {parts[-1]}{ours}"


def _tokenizer(head: Head) -> str:
    fingerprint = head.facts.tokenizer_fingerprint
    return f" and the tokenizer `{fingerprint[:12]}`" if fingerprint else ""


def _start(recipe: Recipe) -> str:
    if not recipe.warm_answers:
        return "No warm start. "
    return (
        f"Warm start on at most {recipe.warm_answers:,} answers (P(the SLM's token is wrong), leaning to the LLM above "
        f"{recipe.warm_error:g}), then "
    )


def _to_spare(training: Training) -> str:
    """Tells what moved lambda last, if it was found for a target."""
    last = training.curves[-1] if training.curves else {}
    if "slack" not in last:
        return ""
    return (
        f"- To spare in the end, by the exploring answers of the last steps: {spare_in_words(last)} (accuracy above\n"
        "  the least that was wanted, or the part by which answers were faster; brackets are 95% intervals).\n"
    )


def _sides(questions: Questions) -> str:
    repeated = f", {questions.origin.num_repeated} repeated ones left out" if questions.origin.num_repeated else ""
    test = f" / {len(questions.test):,}" if questions.test else ""
    split = "train / dev / test" if test else "train / dev"
    return f"{len(questions.train):,} / {len(questions.dev):,}{test} ({split}{repeated})"


def _check(questions: Questions) -> str:
    task = questions.task
    return f"`{task.generator.check}`" if task.generator else f"`{task.check}`"


def _for_each(choice: Choice) -> str:
    return "" if choice.num_heads == 1 else f"; of a head for each of the {choice.num_heads} that were looked at"


def _holds_for(training: Training) -> str:
    """Said beside the promise: what another pair takes is no measurement of this one."""
    words = (
        "That holds for questions like those of dev, greedily answered, and for latencies as the latency model gives "
        "them."
    )
    if not training.latency_of:
        return words
    elsewhere = f"That model was measured elsewhere, on {training.latency_of}:"
    return f"{words}\n{elsewhere} nothing of it is of this pair as it runs here."


def _looked_at(training: Training, choice: Choice) -> str:
    if len(training.looks) < 2:
        return "These questions chose nothing but the price."
    rows = [{"step": step, **asdict(figures)} for step, figures in training.looks.items()]
    allows = "the promise allows for that" if choice.is_promise else "its figures are a little too good"
    return (
        f"The head is that of step {training.chosen}, chosen on these very questions among the following; {allows}."
        f"\n\n{markdown_table(_LOOKS, rows)}"
    )


def _test_command(training: Training) -> str:
    """Said beside the figures of dev, for whoever wants those of the test split."""
    questions = training.questions
    if not questions.test and questions.task.generator is None:
        return "There is no test split: none was left to it."
    words = "The test split was not looked at. For its figures (a running router needs the head: rstitch heads put):"
    return f"{words}\n\n    {training.test_command}"


def _calibration(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    told = (
        "Of the warm start, before it was made to lean, on unsure tokens of answers that it was not fitted on (but\n"
        "for the two numbers of its correction)."
    )
    return f"\n## Calibration\n\n{markdown_table(_CALIBRATION, rows)}\n\n{told}\n"
