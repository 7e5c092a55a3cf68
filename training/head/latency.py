"""The latency model of the pair that a head is trained for: given, bundled, or fitted first."""

from __future__ import annotations

import asyncio
from pathlib import Path

from evals.latency import LatencyModel
from evals.latency.pair import ROLES, fit_pair
from rstitch.errors import Unavailable, invalid
from rstitch.local.part import ROOT
from training.head.options import Options
from training.head.pair import Pair
from training.head.progress import Screen
from training.head.questions import Questions

_BUNDLED = ROOT / "docs/results/latency.json"
_FILE = "latency.json"
# Enough for a reward, and minutes where a model's step takes a tenth of a second.
_REPEATS, _NUM_ASKED, _MAX_TOKENS = 5, 2, 128
_MOST_S = 600.0  # after which no call is repeated: of real models on a CPU all of them would take half an hour


def latency_of(options: Options, pair: Pair, questions: Questions, screen: Screen) -> LatencyModel:
    """Finds the latency model, or times the workers' calls and fits one, which is then kept in the work folder.

    What serving adds is measured on answers to a few of the training questions.

    Raises: RstitchError if there is none and none can be made, or if the one that was given is of other models.
    """
    if options.run.latency is not None:
        model = load_latency(options.run.latency)
        if whose := another_pair(model, pair):
            screen.say("warning", f"{options.run.latency} is of {whose}, the pair is {_words(_wanted(pair))}")
        return model
    path = options.head.work / _FILE
    if path.exists():
        return load_latency(path)
    if _BUNDLED.exists() and _told(bundled := load_latency(_BUNDLED)) == _wanted(pair):
        return bundled
    if not options.run.router:
        raise invalid("--latency-model", "there is no latency model of this pair.", "Make one: rstitch latency.")
    screen.say("latency", "there is no latency model of this pair: its calls and a few answers are timed first")
    asked = [problem.prompt for problem in questions.train[:_NUM_ASKED]]
    limit = min(_MAX_TOKENS, questions.task.max_new_tokens)
    try:
        model = asyncio.run(
            fit_pair(options.run.router, asked, max_new_tokens=limit, repeats=_REPEATS, most_s=_MOST_S, bar=screen.bar)
        )
    except Unavailable as error:
        remedy = "Make a model beside the workers, by rstitch latency, and give it: --latency-model FILE."
        raise invalid("--latency-model", f"the workers cannot be timed from here: {error}", remedy) from error
    part = path.with_suffix(".part")
    model.save(part)
    part.replace(path)
    return load_latency(path)


def another_pair(model: LatencyModel, pair: Pair) -> str:
    """Says in words what the model was measured on; "" if that is this pair as it runs, or if it does not say."""
    told = _told(model)
    return _words(told) if told and told != _wanted(pair) else ""


def load_latency(path: Path) -> LatencyModel:
    """Reads a latency model. Raises RstitchError that names the flag if the file is none."""
    try:
        return LatencyModel.load(path)
    except ValueError as error:
        raise invalid("--latency-model", f"{error}.", "Or leave it out: one is fitted first.") from None


def _told(model: LatencyModel) -> dict[str, str]:
    """What the model was fitted on, by role; empty if it does not say."""
    facts = {role: getattr(model, role).facts for role in ROLES}
    if not all({"model", "device", "dtype"} <= each.keys() for each in facts.values()):
        return {}
    return {role: f"{each['model']} {each['device']} {each['dtype']}" for role, each in facts.items()}


def _wanted(pair: Pair) -> dict[str, str]:
    return {role: f"{pair.names[role]} {pair.places[role]}" for role in ROLES}


def _words(models: dict[str, str]) -> str:
    return " beside ".join(models[role] for role in ROLES)
