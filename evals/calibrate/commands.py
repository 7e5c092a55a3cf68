"""The two commands: calibrate and check once, or many times on one pool of answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.progress import Progress
from rich.table import Table

from evals.asking.access import access
from evals.asking.stacks import local_stack
from evals.calibrate import page
from evals.calibrate.calibration import calibrate
from evals.calibrate.goals import Goal, LatencyGoal, ShareGoal
from evals.calibrate.knobs import Knob, knob
from evals.calibrate.loss import LossGoal
from evals.calibrate.options import Options
from evals.calibrate.outcomes import Outcomes, Sample
from evals.calibrate.questions import Questions, load_questions
from evals.calibrate.repeat import Pool, Wanted, repeat
from evals.figures.provenance import line, provenance
from evals.figures.report import terminal_table
from evals.latency import LatencyModel
from evals.tasks.data import Problem
from rstitch.client.aio import AsyncClient
from rstitch.client.specs import Spec, text_of
from rstitch.client.types import KeptProfile, Learned, LlmOnly, Message
from rstitch.errors import invalid
from rstitch.limits import ROUTER_ADDRESS

# The smallest that half of the pool can show in most draws.
_LOSS = 0.05


@dataclass(frozen=True, slots=True)
class Result:
    """What a command found, for people and for machines; `good` is whether it is as it was stated."""

    told: Sequence[str | Table]
    plain: dict[str, Any]
    good: bool = True


async def run(options: Options, held: ExitStack, progress: Progress) -> Result:
    """Calibrates, checks, and keeps the policy if the check allows it. Raises: RstitchError."""
    goal, turned = _goal(options), _knob(options)
    if not options.data:
        raise invalid("--data", "there is none.", "Give a .jsonl file of questions, or tiny:calibration.")
    questions = load_questions(options.data, options.n, options.seed, goal.needs_answers)
    to_calibrate, to_check = questions.split(options.seed)
    goal.check(len(to_calibrate))
    async with _asking(options, options.router or ROUTER_ADDRESS, questions) as (client, outcomes):
        turned = await _of_its_version(turned, client, questions)

        async def answers(value: float | None, fresh: bool) -> Sample:
            which, problems = ("checking: ", to_check) if fresh else ("calibrating: ", to_calibrate)
            return await _asked(outcomes, problems, turned, value, which, progress)

        made = await calibrate(goal, turned, answers, len(to_check), questions.checker is not None)
        kept = bool(options.name) and (made.landed or options.force)
        if kept:
            facts = f"{line(provenance())} Questions: {questions.source} ({questions.digest}), seed {options.seed}."
            await client.put_profile(
                KeptProfile(options.name, made.policy, description="\n".join([*made.lines(), facts]))
            )
    policy, name = text_of(Spec(made.policy)), options.name
    told = [policy, *made.lines()]
    if kept:
        told.append(f"kept as profile {name}: ask with --policy profile:{name}")
    elif name:
        told.append(
            f"NOT kept as profile {name}: its check lies outside of what was stated. Calibrate on more questions or on "
            "a quieter machine, or keep it all the same with --force."
        )
    return Result(told, {"policy": policy, "profile": name if kept else "", **made.as_dict()}, made.landed)


async def repeat_many(options: Options, held: ExitStack, progress: Progress) -> Result:
    """Answers the pool, then calibrates on parts of it. Raises: RstitchError, StackError."""
    facts: dict[str, Any] = provenance()
    turned = _knob(options)
    questions = load_questions(options.data or "tiny:calibration", options.n or page.POOL, options.seed, True)
    router = options.router
    if not router:
        task = progress.add_task("starting the stack", total=None)
        router = held.enter_context(local_stack(options)).router_address
        progress.remove_task(task)
    async with _asking(options, router, questions) as (client, outcomes):
        turned = await _of_its_version(turned, client, questions)
        samples = {
            value: await _asked(outcomes, questions.problems, turned, value, "", progress)
            for value in (None, *turned.coarse)
        }
    pool = Pool(turned, samples)
    half, rest = pool.size // 2, pool.size - pool.size // 2
    rows = [await repeat(pool, wanted, options.repeats, half, rest, options.seed) for wanted in _wanted(options, pool)]
    facts |= {"questions": questions.source, "calibrated on": half, "checked on": rest}
    if options.write:
        page.write(rows, facts)
    return Result([terminal_table("calibrations", page.COLUMNS, rows), line(facts)], {"rows": rows, "facts": facts})


def _wanted(options: Options, pool: Pool) -> list[Wanted]:
    """The goal that is asked for, or goals of each kind, drawn from what this pair can reach."""
    if any(wanted is not None for wanted in (options.llm_share, options.max_loss, options.latency)):
        return [Wanted.always(_goal(options))]
    values, llm_only = pool.knob.coarse, pool.samples[None]
    share, speed = ShareGoal(0.5), LatencyGoal(2.0)
    # Not to the very ends: what the whole pool reaches, half of it may not.
    least, most = sorted(share.figure(pool.samples[values[end]], None) for end in (1, -3))
    slow, fast = sorted(speed.figure(pool.samples[values[end]], llm_only) for end in (1, -3))
    least, slow = max(least, 1e-3), max(slow, 1.05)
    return [
        Wanted(
            f"LLM share {share.text(least)} to {share.text(most)}",
            lambda rng: ShareGoal(float(np.exp(rng.uniform(np.log(least), np.log(most))))),
        ),
        Wanted(
            f"speed-up {speed.text(slow)} to {speed.text(fast)}",
            lambda rng: LatencyGoal(float(rng.uniform(slow, fast))),
        ),
        Wanted.always(LossGoal(_LOSS)),
    ]


def _goal(options: Options) -> Goal:
    if options.llm_share is not None:
        return ShareGoal(options.llm_share)
    if options.max_loss is not None:
        return LossGoal(options.max_loss)
    if options.latency is not None:
        return LatencyGoal(options.latency)
    raise invalid("--llm-share", "there is no goal.", "Give --llm-share 0.15, --max-loss 1% or --latency 2x.")


def _knob(options: Options) -> Knob:
    return knob(options.policy, options.signal, options.window)


async def _of_its_version(turned: Knob, client: AsyncClient, questions: Questions) -> Knob:
    """The same of the head that its name stands for now, by its version, which a first short answer says.

    What is stated holds of that one, and so does what a cache keeps, whatever is put under the name later. The router's
    status would not do: it lists no head of the hub, and none of the store while Redis is slow.
    """
    asked = turned.policy(turned.values[0])
    if not isinstance(asked, Learned):
        return turned
    chat = [Message("user", questions.problems[0].prompt)]
    answer = await client.answer(chat=chat, policy=asked, max_new_tokens=1, guard=False)
    await client.delete_trajectory(answer.session_id)
    found = answer.finished.policy
    if not isinstance(found, Learned) or "@" not in found.name:
        what = f"the router does not say which version of the head {asked.name} it asks."
        raise invalid("--policy", what, "Name the version: learned:NAME@VERSION, as `rstitch heads ls` lists it.")
    return replace(turned, policy=lambda value: replace(asked, name=found.name, price=value))


@asynccontextmanager
async def _asking(options: Options, router: str, questions: Questions) -> AsyncIterator[tuple[AsyncClient, Outcomes]]:
    model = LatencyModel.load(options.latency_model) if options.latency_model else None
    checker = questions.checker
    async with AsyncClient(router, credentials=access()) as client, checker or nullcontext():
        outcomes = Outcomes(client, checker, options.max_new_tokens, options.concurrency, model, options.cache)
        await outcomes.open()
        yield client, outcomes


async def _asked(
    outcomes: Outcomes, problems: Sequence[Problem], turned: Knob, value: float | None, which: str, progress: Progress
) -> Sample:
    """Asks with a value of the parameter, or (None) the LLM alone."""
    policy, name = (
        (LlmOnly(), "the LLM alone") if value is None else (turned.policy(value), f"{turned.parameter} {value:g}")
    )
    task = progress.add_task(which + name, total=len(problems))
    return await outcomes.ask(problems, policy, lambda: progress.advance(task))
