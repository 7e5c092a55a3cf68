"""The guard's laws, without a wire: no verdict without data, hysteresis, exploration, and nothing but its inputs."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from router_svc.observers.guard import Guard, Observation, bucket_name, bucket_of
from router_svc.observers.load import LoadMeter

PATIENCE = 4
EXPLORE_EVERY = 8


def routed(per_token_us: float, num: int = 100, load: float = 8, llm_us: float = 0) -> Observation:
    """Three tokens in twenty by the LLM, each `llm_us` of its forward."""
    num_llm = num * 3 // 20
    return Observation(True, load, int(per_token_us * num), num, int(llm_us * num_llm), num_llm)


def llm_only(per_token_us: float, num: int = 100, load: float = 8) -> Observation:
    return Observation(False, load, int(per_token_us * num), num, int(per_token_us * num), num)


def see(guard: Guard, answers: list[Observation]) -> None:
    for answer in answers:
        guard.observe(answer)


def losing(guard: Guard) -> Guard:
    see(guard, [routed(1300), llm_only(1000)] * 12)
    assert guard.state(8).llm_only
    return guard


def test_without_data_nothing_is_guarded() -> None:
    guard = Guard()
    for load in (1, 8, 10_000):
        assert guard.choose(load) == ""
        view = guard.state(load)
        assert (view.llm_only, view.routed_us, view.llm_only_us) == (False, 0, 0)
        assert "too few answers" in view.reason


@pytest.mark.parametrize("answer", [routed(9999), llm_only(1)])
def test_one_side_alone_says_nothing(answer: Observation) -> None:
    guard = Guard()
    see(guard, [answer] * 50)
    assert guard.choose(8) == ""


def test_it_speaks_for_the_load_that_it_has_seen_and_for_no_other() -> None:
    guard = losing(Guard())
    assert guard.choose(11)
    assert guard.choose(5) == guard.choose(12) == ""


def test_loads_are_alike_around_powers_of_two() -> None:
    names = [bucket_name(bucket_of(load)) for load in range(1, 101)]
    counted = {name: names.count(name) for name in names}
    assert counted == {
        "1 session": 1,
        "2 sessions": 1,
        "3-5 sessions": 3,
        "6-11 sessions": 6,
        "12-22 sessions": 11,
        "23 or more sessions": 78,
    }
    for load in (1, 2, 4, 8, 16, 32):
        assert bucket_of(0.9 * load) == bucket_of(load) == bucket_of(1.1 * load)
    assert bucket_of(0) == 0


def test_the_reason_has_the_figures() -> None:
    guard = losing(Guard())
    reason = guard.choose(8)
    assert reason == "routed answers took 1.30x as long as LLM-only ones at 6-11 sessions (n=12 and 12)."
    view = guard.state(8)
    assert (view.routed_us, view.llm_only_us, view.num_routed, view.num_llm_only) == (130_000, 100_000, 12, 12)


def test_it_enters_only_after_so_many_verdicts_in_a_row() -> None:
    guard = Guard(min_answers=6, patience=PATIENCE)
    see(guard, [llm_only(1000)] * 8 + [routed(1300)] * 6)
    assert "too few" in guard.state(8).reason
    for _ in range(PATIENCE):
        assert not guard.state(8).llm_only
        guard.observe(routed(1300))
    assert guard.state(8).llm_only


@pytest.mark.parametrize("ratio", [0.97, 1.0, 1.03])
@pytest.mark.parametrize("before", [False, True])
def test_between_the_limits_nothing_changes(ratio: float, before: bool) -> None:
    guard = losing(Guard()) if before else Guard()
    see(guard, [routed(1000 * ratio), llm_only(1000)] * 200)
    assert guard.state(8).llm_only is before


def test_it_leaves_when_routing_wins_again() -> None:
    guard = losing(Guard())
    see(guard, [routed(800), llm_only(1000)] * 30)
    assert guard.choose(8) == ""
    assert "0.80x" in guard.state(8).reason


def test_figures_that_scatter_too_much_prove_nothing() -> None:
    dice = random.Random(0)
    guard = Guard()
    see(guard, [llm_only(1000)] * 8 + [routed(1100 * dice.lognormvariate(0, 1)) for _ in range(8)])
    sure = Guard()
    see(sure, [llm_only(1000)] * 8 + [routed(1100 * dice.lognormvariate(0, 0.01)) for _ in range(12)])
    assert not guard.state(8).llm_only
    assert sure.state(8).llm_only


def test_one_answer_that_waited_for_a_lost_worker_decides_nothing() -> None:
    guard = Guard()
    see(guard, [routed(700), llm_only(1000)] * 20 + [routed(1_000_000)] * 5)
    assert guard.choose(8) == ""


def test_while_it_guards_every_so_manieth_answer_is_routed() -> None:
    guard = losing(Guard(explore_every=EXPLORE_EVERY))
    turns = [guard.choose(8) == "" for _ in range(10 * EXPLORE_EVERY)]
    assert turns == ([False] * (EXPLORE_EVERY - 1) + [True]) * 10


def closed_loop(guard: Guard, routed_us: Callable[[int], float], num: int) -> list[bool]:
    """One answer after another, chosen by the guard; the LLM takes 1,000 us a token. Returns who was routed."""
    dice, chosen = random.Random(1), []
    for step in range(num):
        chosen.append(guard.choose(8) == "")
        scatter, length = dice.uniform(0.9, 1.1), dice.randint(50, 200)
        if chosen[-1]:
            guard.observe(routed(routed_us(step) * scatter, length, llm_us=900))
        else:
            guard.observe(llm_only(1000 * scatter, length))
    return chosen


def test_it_turns_comes_back_and_turns_again_by_what_it_measures() -> None:
    guard = Guard(explore_every=EXPLORE_EVERY)
    chosen = closed_loop(guard, lambda step: 1500 if step < 400 or step >= 1200 else 600, 1600)
    assert all(chosen[:6])
    assert sum(chosen[200:400]) == 200 // EXPLORE_EVERY
    assert all(chosen[900:1200])
    assert sum(chosen[1400:1600]) == 200 // EXPLORE_EVERY


def test_where_routing_pays_it_never_steps_in() -> None:
    assert all(closed_loop(Guard(), lambda step: 500, 500))


def test_it_comes_back_from_an_estimate_that_was_wrong_and_remembers_the_correction() -> None:
    """The LLM's forwards alone are far below what an LLM-only answer takes: routing at 700 us wins."""
    guard, dice = Guard(), random.Random(2)
    chosen = []
    for _ in range(1000):
        chosen.append(guard.choose(8) == "")
        scatter = dice.uniform(0.95, 1.05)
        guard.observe(routed(700 * scatter, llm_us=300) if chosen[-1] else llm_only(1000 * scatter))
    assert not all(chosen)
    assert chosen.count(False) < 30
    assert all(chosen[100:])


def test_an_estimate_is_said_to_be_one() -> None:
    guard = Guard()
    see(guard, [routed(1500, llm_us=900)] * 12)
    view = guard.state(8)
    assert view.llm_only
    assert "estimated" in view.reason
    assert view.num_llm_only == 0


def test_shorter_traces_count_for_routing_once_they_are_seen() -> None:
    """Dearer per token, but half as long."""
    guard = Guard()
    see(guard, [routed(1300, 100), llm_only(1000, 200)] * 60)
    assert not guard.state(8).llm_only
    assert guard.state(8).routed_us < guard.state(8).llm_only_us


def test_a_question_s_length_does_not_count_against_either() -> None:
    """The same answers, but the routed ones were asked for longer texts at a load where the LLM was not seen."""
    guard = Guard()
    see(guard, [llm_only(1000, num) for num in range(50, 70)] + [routed(900, num) for num in range(60, 80)])
    assert not guard.state(8).llm_only


def test_old_figures_fade() -> None:
    guard = losing(Guard())
    see(guard, [routed(500, load=1)] * 400)
    assert guard.choose(8) == ""
    assert "too few" in guard.state(8).reason


def test_other_workers_make_a_new_beginning() -> None:
    guard = Guard()
    guard.set_pair(("a", "b"))
    losing(guard)
    guard.set_pair(("a", "b"))
    assert guard.choose(8)
    guard.set_pair(("a", "c"))
    assert guard.choose(8) == ""


def test_what_is_known_is_told_of_each_load_as_it_is_now() -> None:
    guard = losing(Guard())
    assert {load: at.llm_only for load, at in guard.states().items()} == {"6-11 sessions": True}
    see(guard, [routed(500, load=1)] * 400)
    assert {load: at.llm_only for load, at in guard.states().items()} == {
        "1 session": False,
        "6-11 sessions": False,
    }
    guard.set_pair(("a", "b"))
    assert guard.states() == {}


def test_the_same_answers_give_the_same_choices() -> None:
    runs = [closed_loop(Guard(), lambda step: 1500 if step % 300 < 150 else 700, 900) for _ in range(2)]
    assert runs[0] == runs[1]


def test_load_is_the_mean_over_an_answer_s_time() -> None:
    load = LoadMeter()
    load.enter("a", 10.0)
    load.enter("b", 12.0)
    assert load.num == 2
    assert load.leave("b", 14.0) == 2
    assert load.leave("a", 14.0) == 1.5
    load.enter("c", 20.0)
    assert load.leave("c", 20.0) == 1
    assert load.num == 0
