"""A task of Inspect, run in its environment: questions.jsonl beside it, right if the box has the answer."""

from inspect_ai import Task, task
from inspect_ai.dataset import FieldSpec, json_dataset
from inspect_ai.scorer import pattern
from inspect_ai.solver import generate


@task
def tiny() -> Task:
    """Makes a task of the questions beside it; an answer is what stands in its box."""
    questions = json_dataset("questions.jsonl", FieldSpec(input="question", target="answer"))
    return Task(dataset=questions, solver=generate(), scorer=pattern(r"boxed\{([^}]*)\}"))
