"""Where the states of a warm start come from: reference chains, the LLM's own answers, worked solutions, or logs.

`chains` are there for the tiny domains alone, and cost no service. `answers` are those of the LLM alone to training
questions, as far as they are right; of any task. `solutions` are the data's own. `logs` are all sessions of the router
that somebody has called right or wrong (`rstitch trajectory label`), but for those of dev and test questions.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evals.asking.systems import Terms
from evals.tasks.data import Problem
from evals.tasks.task import Task
from rstitch.client.policies import LlmOnly
from rstitch.errors import invalid
from training.head.progress import Screen
from training.head.questions import solution_of
from training.head.recipe import Recipe
from training.head.rollouts.kept import KeptRollouts
from training.head.rollouts.served import ServedRollouts
from training.head.rollouts.types import Job
from training.head.warm_start.chain_states import Chains, chain_states
from training.head.warm_start.observed_states import states_from
from training.head.warm_start.observing import Observed, labelled, observe_given, observe_logged
from training.head.warm_start.states import States

_DOMAINS = {  # generators whose reference chains are at hand; a user's task may have the name of one
    "evals.tasks.tiny.arithmetic:problems": "words",
    "evals.tasks.tiny.programs_task:problems": "programs",
}
# Of programs the LLM errs more often among the SLM's lines than among its own: what is lost under a threshold are its
# errors (`python -m training.head.studies.blame`), so the head has it begin the lines.
_TAUGHT = {"programs": "llm"}
NUM_ANSWERS = 500  # that a warm start learns from, where nobody says how many and they are written for it
_NUM_CHAINS, _NUM_ANSWERS = 500, 64  # for the normalisation of the inputs, if there is no warm start

_LABEL = "Label some: rstitch trajectory label ID right|wrong."


def domain_of(task: Task) -> str | None:
    """The tiny domain whose problems a task writes; None of any other."""
    return _DOMAINS.get(task.generator.problems) if task.generator else None


def default_source(task: Task) -> str:
    """The source where none is asked for."""
    return "chains" if domain_of(task) else "answers"


def first(problems: Sequence[Problem], recipe: Recipe) -> Sequence[Problem]:
    """The questions whose answers a warm start learns from."""
    return problems[: recipe.warm_answers or _NUM_ANSWERS]


def of_chains(slm: str, domain: str, recipe: Recipe, folder: Path, screen: Screen) -> States:
    """Of the reference chains of a tiny domain."""
    num_chains = recipe.warm_answers or _NUM_CHAINS
    with screen.bar("reference chains", num_chains) as advance:
        lines = recipe.warm_lines or _TAUGHT.get(domain, "")
        chains = Chains(slm, domain, recipe.tau, num_chains, recipe.seed, recipe.features, lines)
        return chain_states(chains, folder / "states", advance)


def of_answers(
    served: ServedRollouts, rollouts: KeptRollouts, problems: Sequence[Problem], terms: Terms, recipe: Recipe,
    screen: Screen,
) -> States:  # fmt: skip
    """Of what the LLM alone answers to the first training questions, where it is right."""
    problems = first(problems, recipe)
    with rollouts.stage("warm"), screen.bar("answers of the LLM", len(problems)) as advance:
        made = rollouts.run([Job(problem) for problem in problems], LlmOnly(), advance)
    right = [(_chat(each.problem, terms), each.text) for each in made if each.right and each.text]
    return _of_given(served, right, recipe, screen)


def of_solutions(
    served: ServedRollouts, problems: Sequence[Problem], terms: Terms, recipe: Recipe, screen: Screen
) -> States:
    """Of the data's own solutions. Raises RstitchError if it has none."""
    solved = [(problem, solution_of(problem)) for problem in first(problems, recipe)]
    texts = [(_chat(problem, terms), text) for problem, text in solved if text is not None]
    if not texts:
        raise invalid("--warm-from", "the questions have no column `solution`.", "Choose answers.")
    return _of_given(served, texts, recipe, screen)


def of_logs(served: ServedRollouts, held_out: Sequence[Problem], recipe: Recipe, screen: Screen) -> States:
    """Of the sessions that have a label, but for those that were asked a question that is `held_out`.

    Raises: RstitchError if there are none.
    """
    sessions = served.wait_for(labelled(served))
    if not sessions:
        raise invalid("--warm-from", "the router keeps no session with a label.", _LABEL)
    texts = {_plain(str(problem.row.get("question") or problem.prompt)) for problem in held_out} - {""}

    def is_held_out(prompts: str) -> bool:
        plain = _plain(prompts)
        return any(text in plain for text in texts)

    observed = served.wait_for(observe_logged(served, sessions, recipe.tau, is_held_out))
    if num := observed.num_held_out:
        words = f"{num:,} of {len(sessions):,} labelled sessions are left out: they hold questions of dev or test"
        screen.say("note", words)
        if num == len(sessions):
            raise invalid("--warm-from", f"{words}.", f"{_LABEL} Or choose answers.")
    return _states(observed, recipe, screen)


def _chat(problem: Problem, terms: Terms) -> Any:
    if terms.input != "chat":
        raise invalid("--warm-from", "the task asks without a chat, and only chats are observed.", "Choose logs.")
    return terms.question(problem.prompt)["chat"]


def _of_given(served: ServedRollouts, answers: Sequence[tuple[Any, str]], recipe: Recipe, screen: Screen) -> States:
    asked = observe_given(served, answers, recipe.tau, whole=bool(recipe.features))
    return _states(served.wait_for(asked), recipe, screen)


def _states(observed: Observed, recipe: Recipe, screen: Screen) -> States:
    """Makes the states, and says what there are none of."""
    if refused := observed.refused:
        told = f"{len(refused):,} of {len(refused) + len(observed.seen):,} answers"
        screen.say("note", f"left out of the warm start: {told}; the first one: {refused[0]}")
    return states_from(observed.seen, recipe.tau, recipe.features)


def _plain(text: str) -> str:
    """A text whatever its spaces and the form of its characters."""
    return " ".join(unicodedata.normalize("NFC", text).split())
