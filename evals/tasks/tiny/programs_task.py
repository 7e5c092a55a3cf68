"""Tracing a small Python program: the task of the second tiny pair, and the check of an answer.

A program has two whole numbers below 100 and one list; it assigns, calculates, changes the list, branches, loops over
the list, and prints one value. It is written and run at once, so each statement is drawn for the values it will meet. A
program belongs to one split by a hash of its text with the variables renamed. Knows nothing of tokens, models or torch.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from evals.tasks.tiny.splits import Generator

MAX_VALUE = 99
MAX_ITEM = 20
MAX_LIST = 3
_NUMBERS, _LISTS, _LOOP = "abcdef", "pqs", "x"
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_VARIABLE = re.compile(r"\b[a-z]\b")
_INDENT = "    "

Value = int | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One executed statement: what it is, what it read, and its result, such as `9+5=14;a=14`, `7>5 yes`, `s=3,8`.

    A variable's latest value always stands right behind the last `a=`: models look it up in one hop.
    """

    kind: str
    source: str
    reads: tuple[tuple[str, Value], ...]
    result: str


@dataclass(frozen=True, slots=True)
class Problem:
    """A program with its one right trace."""

    question: str
    steps: tuple[Step, ...]
    answer: str

    @property
    def program(self) -> str:
        return self.question.partition("\n")[2]

    @property
    def printed(self) -> str:
        """The printed variable's last assignment, as the trace has it: `a=14`."""
        name = self.program.rpartition("print(")[2].removesuffix(")")
        return f"{name}={self.answer.strip('[]').replace(' ', '')}"

    @property
    def canonical(self) -> str:
        """The program whatever its variables are called: they are numbered in the order of appearance."""
        names: dict[str, str] = {}
        return _VARIABLE.sub(lambda found: names.setdefault(found[0], f"v{len(names)}"), self.program)


def shown(value: Value) -> str:
    """A value as a trace writes it."""
    return str(value) if isinstance(value, int) else ",".join(map(str, value))


def is_correct(text: str, problem: Problem) -> bool:
    """Whether the text ends in what the program prints, in a `\\boxed{}`; blanks do not matter."""
    found = _BOXED.findall(text)
    return bool(found) and found[-1].replace(" ", "") == problem.answer.replace(" ", "")


@dataclass(frozen=True, slots=True)
class _Statement:
    """A drawn statement, not yet run: running it stores `value` in `target`."""

    step: Step
    target: str
    value: Value


@dataclass(slots=True)
class _Program:
    """A program that is run while it is written."""

    rng: random.Random
    values: dict[str, Value] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    last: str = ""  # the variable that was set last

    def number(self) -> tuple[str, int]:
        return self.rng.choice([(name, v) for name, v in self.values.items() if isinstance(v, int)])

    def items(self) -> tuple[str, tuple[int, ...]]:
        return next((name, v) for name, v in self.values.items() if isinstance(v, tuple))

    def run(self, statement: _Statement) -> None:
        """What the machine does when it reaches the statement."""
        self.values[statement.target] = statement.value
        self.last = statement.target
        self.steps.append(statement.step)

    def write(self, depth: int, source: str) -> None:
        self.lines.append(_INDENT * depth + source)

    def add(self, statement: _Statement) -> None:
        """A statement that is reached in any case."""
        self.write(0, statement.step.source)
        self.run(statement)


def make_problem(rng: random.Random, hard: float = 0.0) -> Problem:
    """Draw any program; the split is decided afterwards. `hard` has no meaning in this domain."""
    del hard
    program = _Program(rng)
    names = rng.sample(_NUMBERS, 2)
    program_list = rng.choice(_LISTS)
    first: list[_Statement] = [_assign(name, rng.randint(1, 30)) for name in names]
    items = tuple(rng.randint(1, MAX_ITEM) for _ in range(rng.randint(2, MAX_LIST)))
    source = f"{program_list} = [{', '.join(map(str, items))}]"
    first.append(_Statement(Step("list", source, (), f"{program_list}={shown(items)}"), program_list, items))
    rng.shuffle(first)
    for statement in first:
        program.add(statement)
    for _ in range(rng.randint(2, 3)):
        rng.choices((_plain, _branch, _loop), (0.6, 0.25, 0.15))[0](program)
    last = rng.choice([program.last, *program.values])
    printed = program.values[last]
    program.write(0, f"print({last})")
    question = "What does this program print?\n" + "\n".join(program.lines)
    return Problem(question, tuple(program.steps), str(printed if isinstance(printed, int) else list(printed)))


def _assign(name: str, value: int) -> _Statement:
    return _Statement(Step("set", f"{name} = {value}", (), f"{name}={value}"), name, value)


def _calculate(program: _Program) -> _Statement:
    """`a = b + c`, with a variable or a number on the right and a result in range."""
    rng = program.rng
    (target, _), (left, x) = program.number(), program.number()
    right, y = program.number() if rng.random() < 0.4 else ("", rng.randint(2, 30))
    if right == left:
        right, y = "", rng.randint(2, 30)
    results = {"+": x + y, "-": x - y, "*": x * y}
    if not right and x and x * 2 <= MAX_VALUE and rng.random() < 0.3:
        y = rng.randint(2, min(9, MAX_VALUE // x))
        results = {"*": x * y}
    op = rng.choice([op for op, result in results.items() if 0 <= result <= MAX_VALUE] or ["="])
    if op == "=":
        return _assign(target, y)
    return _calculation(target, (left, x), op, (right, y), results[op])


def _calculation(target: str, left: tuple[str, int], op: str, right: tuple[str, int], result: int) -> _Statement:
    """Operands are variables with their values; a number has no name."""
    reads = (left, right) if right[0] else (left,)
    source = f"{target} = {left[0]} {op} {right[0] or right[1]}"
    trace = f"{left[1]}{op}{right[1]}={result};{target}={result}"
    return _Statement(Step(f"calculate{op}", source, reads, trace), target, result)


def _read_list(program: _Program) -> _Statement:
    """`a = s[1]`, `a = len(s)`, `a = max(s)`."""
    (target, _), (name, items) = program.number(), program.items()
    index = program.rng.randrange(len(items))
    ways = (
        ("item", f"{name}[{index}]", items[index]),
        ("len", f"len({name})", len(items)),
        ("max", f"max({name})", max(items)),
    )
    kind, source, value = program.rng.choice(ways)
    return _Statement(Step(kind, f"{target} = {source}", ((name, items),), f"{target}={value}"), target, value)


def _change_list(program: _Program) -> _Statement:
    """`s.append(a)`, `s.pop()`, `s.reverse()`, `s.sort()`."""
    (name, items), (other, x) = program.items(), program.number()
    ways: dict[str, tuple[int, ...]] = {"reverse": items[::-1], "sort": tuple(sorted(items))}
    if len(items) < MAX_LIST:
        ways["append"] = (*items, x)
    if len(items) > 2:
        ways["pop"] = items[:-1]
    kind = program.rng.choice(list(ways))
    reads = ((name, items), (other, x)) if kind == "append" else ((name, items),)
    source = f"{name}.{kind}({other if kind == 'append' else ''})"
    return _Statement(Step(kind, source, reads, f"{name}={shown(ways[kind])}"), name, ways[kind])


def _simple(program: _Program) -> _Statement:
    ways: tuple[Callable[[_Program], _Statement], ...] = (_calculate, _read_list, _change_list)
    return program.rng.choices(ways, (0.5, 0.2, 0.3))[0](program)


def _plain(program: _Program) -> None:
    program.add(_simple(program))


def _compare(program: _Program, name: str, x: int, depth: int) -> tuple[Step, bool]:
    """`if a > b:`; the step tells whether it holds."""
    rng = program.rng
    right, y = program.number() if rng.random() < 0.4 else ("", max(0, x + rng.randint(-12, 12)))
    if right == name:
        right, y = "", rng.randint(2, 30)
    op = rng.choice("<>")
    holds = x > y if op == ">" else x < y
    reads = ((name, x), (right, y)) if right else ((name, x),)
    program.write(depth, f"if {name} {op} {right or y}:")
    return Step("if", f"{name} {op} {right or y}", reads, f"{x}{op}{y} {'yes' if holds else 'no'}"), holds


def _branch(program: _Program) -> None:
    """`if` with one statement, and at times an `else` with another."""
    step, holds = _compare(program, *program.number(), depth=0)
    program.steps.append(step)
    bodies = [(True, _simple(program))]
    if program.rng.random() < 0.6:
        bodies.append((False, _simple(program)))
    for taken, statement in bodies:
        if not taken:
            program.write(0, "else:")
        program.write(1, statement.step.source)
    for taken, statement in bodies:
        if taken == holds:
            program.run(statement)


def _loop(program: _Program) -> None:
    """`for x in s:` adds the items to a number, as many as fit in the range."""
    (name, items), (target, total) = program.items(), program.number()
    if total + sum(items) > MAX_VALUE or any(step.kind == "next" for step in program.steps):  # one loop is enough
        _plain(program)
        return
    program.write(0, f"for {_LOOP} in {name}:")
    program.write(1, f"{target} = {target} + {_LOOP}")
    for item in items:
        program.steps.append(Step("next", name, ((name, items),), f"{_LOOP}={item}"))
        program.run(_calculation(target, (target, total), "+", (_LOOP, item), total + item))
        total += item


GENERATOR = Generator(make_problem)
stream = GENERATOR.stream
problems = GENERATOR.problems
split_of = GENERATOR.split_of
check_disjoint = GENERATOR.check_disjoint
