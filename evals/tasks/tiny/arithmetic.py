"""The task of the tiny pair: arithmetic word problems in plain English, and the check of an answer.

A problem is a story of one person and one kind of thing, 2 to 6 calculations long, with a whole number below 1,000
after each of them. Its split is that of its calculations: no wording of a held-out problem's calculations can reach
the training stream. Knows nothing of tokens, chains of thought, models or torch.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from evals.tasks.tiny.splits import Generator

MIN_STEPS, MAX_STEPS = 2, 6
MAX_VALUE = 999
MAX_PRODUCT = 600

_BOXED = re.compile(r"\\boxed\{\s*(-?\d+)\s*\}")

# name, subject pronoun, object pronoun
PEOPLE = (
    ("Mia", "she", "her"), ("Ben", "he", "him"), ("Ada", "she", "her"), ("Tom", "he", "him"),
    ("Zoe", "she", "her"), ("Leo", "he", "him"), ("Ivy", "she", "her"), ("Max", "he", "him"),
    ("Nina", "she", "her"), ("Omar", "he", "him"), ("Lena", "she", "her"), ("Hugo", "he", "him"),
    ("Rosa", "she", "her"), ("Finn", "he", "him"), ("Yuki", "she", "her"), ("Kofi", "he", "him"),
)  # fmt: skip
ITEMS = (
    "shells", "stamps", "marbles", "apples", "coins", "cards", "books", "pencils", "stickers", "beads",
    "buttons", "stones", "cookies", "flowers", "balloons", "seeds", "tickets", "candles", "plums", "feathers",
)  # fmt: skip
CONTAINERS = ("boxes", "bags", "packs", "jars")

_ADD = (
    "{She} finds {n} more.", "{other} gives {her} {n} more.", "Then {she} buys {n} {items}.",
    "{She} wins {n} {items}.", "The next day {she} gets {n} more {items}.",
    "{Her} friend {other} sends {her} {n} {items}.",
)  # fmt: skip
_SUBTRACT = (
    "{She} gives {n} to {other}.", "Then {she} loses {n} of them.", "{She} sells {n} {items}.",
    "{other} takes {n} of them.", "The next day {she} gives away {n} {items}.", "{She} trades {n} of them for a kite.",
)  # fmt: skip
_MULTIPLY = (
    "{She} works until {she} has {n} times as many.", "Soon {she} has {n} times as many {items}.",
    "A wizard makes it {n} times as many.",
)  # fmt: skip
_NAMED_MULTIPLY = {2: ("Then {she} doubles the number of {items}.",), 3: ("Then {she} triples the number of {items}.",)}
_DIVIDE = (
    "{She} shares them equally among {n} boxes and keeps one box.",
    "{She} splits them into {n} equal piles and keeps one pile.",
    "{She} divides them fairly among {n} friends, and {she} is one of the friends.",
)  # fmt: skip
_NAMED_DIVIDE = {2: ("{She} gives half of them to {other}.",)}
_PACKS = (
    "{She} buys {k} {containers} of {n} {items} each.",
    "{other} brings {k} {containers} with {n} {items} in each.",
)


@dataclass(frozen=True, slots=True)
class Step:
    """One calculation. `count_of` names the containers when it counts what a purchase holds."""

    left: int
    op: str
    right: int
    result: int
    count_of: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """A question with its one right way of solving it."""

    question: str
    steps: tuple[Step, ...]
    answer: int
    person: str
    items: str

    @property
    def canonical(self) -> str:
        """The calculations alone: what two wordings of one problem share."""
        return ";".join(f"{s.left}{s.op}{s.right}" for s in self.steps)


def extract_answer(text: str) -> int | None:
    """The number in the last `\\boxed{}` of a text, if there is one."""
    found = _BOXED.findall(text)
    return int(found[-1]) if found else None


def is_correct(text: str, problem: Problem) -> bool:
    """Whether the text ends in the right answer."""
    return extract_answer(text) == problem.answer


def examples(n: int = 10) -> list[str]:
    """Questions for people to try: held out, and varied in length."""
    order, asked = [3, 4, 5, 2, 6], problems("test", 200)[100:]
    by_length = {k: [problem.question for problem in asked if len(problem.steps) == k] for k in order}
    return [by_length[order[i % len(order)]][i // len(order)] for i in range(n)]


def make_problem(rng: random.Random, hard: float = 0.0) -> Problem:
    """Draw any problem; the split is decided afterwards."""
    (person, she, her), (other, _, _) = rng.sample(PEOPLE, 2)
    items = rng.choice(ITEMS)
    num_steps = rng.randint(MIN_STEPS, MAX_STEPS)
    words = {"she": she, "She": she.capitalize(), "her": her, "Her": "Her" if she == "she" else "His"}
    words |= {"items": items, "other": other}
    value = rng.randint(5, 99) if rng.random() < 0.7 else rng.randint(100, 400)
    sentences = [f"{person} has {value} {items}."]
    steps: list[Step] = []
    while len(steps) < num_steps:
        sentence, new = _next(rng, value, num_steps - len(steps), words, hard)
        sentences.append(sentence)
        steps.extend(new)
        value = steps[-1].result
    sentences.append(f"How many {items} does {person} have now?")
    return Problem(" ".join(sentences), tuple(steps), value, person, items)


def _next(rng: random.Random, value: int, num_left: int, words: dict[str, str], hard: float) -> tuple[str, list[Step]]:
    """One sentence that follows a value, and its one or two calculations."""
    kinds = ["add", "subtract"] if value > 10 else ["add"]
    if value * 2 <= MAX_PRODUCT:
        kinds.append("multiply")
    divisors = [k for k in range(2, 6) if value % k == 0 and value // k > 1]
    if divisors:
        kinds.append("divide")
    if num_left >= 2:
        kinds.append("packs")
    kind = rng.choice(kinds)
    if kind == "add" and value > MAX_VALUE - 10:
        kind = "subtract"
    if kind == "packs":
        k, n = rng.randint(2, 6), rng.randint(3, 30)
        if value + k * n > MAX_VALUE:
            kind = "subtract"
        else:
            containers = rng.choice(CONTAINERS)
            sentence = rng.choice(_PACKS).format(k=k, n=n, containers=containers, **words)
            counted = Step(n, "*", k, n * k, count_of=containers)
            return sentence, [counted, Step(value, "+", counted.result, value + counted.result)]
    if kind in ("add", "subtract"):
        is_sum = kind == "add"
        n = rng.randint(2, min(99 if rng.random() < 0.8 else 300, MAX_VALUE - value if is_sum else value - 2))
        if hard and rng.random() < hard:
            results = (
                range(value + 2, min(value + 300, MAX_VALUE) + 1) if is_sum else range(max(2, value - 300), value - 1)
            )
            n = _hard_operand(rng, value, results) or n
        templates, op, result = (_ADD, "+", value + n) if is_sum else (_SUBTRACT, "-", value - n)
    elif kind == "multiply":
        n = rng.randint(2, min(5, MAX_PRODUCT // value))
        templates, op, result = (*_MULTIPLY, *_NAMED_MULTIPLY.get(n, ())), "*", value * n
    else:
        n = rng.choice(divisors)
        templates, op, result = (*_DIVIDE, *_NAMED_DIVIDE.get(n, ())), "/", value // n
    return rng.choice(templates).format(n=n, **words), [Step(value, op, n, result)]


def _hard_operand(rng: random.Random, value: int, results: range) -> int:
    """The operand that leads from a value to a result beside a round hundred, or a tiny one; 0 if there is none."""
    hard = [r for r in results if r < 10 or (r + 2) % 100 < 4]
    return abs(rng.choice(hard) - value) if hard else 0


GENERATOR = Generator(make_problem)
stream = GENERATOR.stream
problems = GENERATOR.problems
split_of = GENERATOR.split_of
check_disjoint = GENERATOR.check_disjoint
