"""The guard's laws, without a wire: no verdict without data, hysteresis, and looks that are bounded."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from router_svc.observers.comparing import Difference, after, shift
from router_svc.observers.guard import Choice, Guard, LookRules, Observation, bucket_name, bucket_of
from router_svc.observers.load import Kind, LoadMeter

RULES = LookRules()


def routed(per_token_us: float, num: int = 100, load: float = 8, purity: float = 1) -> Observation:
    return Observation(True, load, int(per_token_us * num), num, purity)


def llm_only(per_token_us: float, num: int = 100, load: float = 8, purity: float = 1) -> Observation:
    return Observation(False, load, int(per_token_us * num), num, purity)


def see(guard: Guard, answers: list[Observation]) -> None:
    for answer in answers:
        guard.observe(answer)


def losing(guard: Guard) -> Guard:
    see(guard, [routed(1500), llm_only(1000)] * 12)
    assert guard.state(8).llm_only
    return guard


def is_routed(choice: Choice) -> bool:
    return choice.kind is Kind.ROUTED


def test_without_data_nothing_is_guarded() -> None:
    guard = Guard()
    for load in (1, 8, 10_000):
        assert guard.choose(load) == Choice(Kind.ROUTED)
        view = guard.state(load)
        assert (view.llm_only, view.routed_us, view.llm_only_us) == (False, 0, 0)
        assert "too few answers" in view.reason


@pytest.mark.parametrize("answer", [routed(9999), llm_only(1)])
def test_one_side_alone_says_nothing(answer: Observation) -> None:
    guard = Guard()
    see(guard, [answer] * 50)
    assert not guard.state(8).llm_only
    assert "too few answers" in guard.state(8).reason


def test_it_speaks_for_the_load_that_it_has_seen_and_for_no_other() -> None:
    guard = losing(Guard())
    assert not is_routed(guard.choose(11))
    assert is_routed(guard.choose(4))
    assert is_routed(guard.choose(16))


def test_a_load_at_the_edge_of_two_is_that_of_before() -> None:
    guard = losing(Guard())
    assert [is_routed(guard.choose(load)) for load in (8, 5, 13, 14, 13, 8)] == [False, False, False, True, True, False]


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
    choice = guard.choose(8)
    assert choice.reason == "routed answers took 1.50x as long as LLM-only ones at 6-11 sessions (n=12 and 12)."
    assert not choice.is_look
    view = guard.state(8)
    assert (view.routed_us, view.llm_only_us, view.num_routed, view.num_llm_only) == (150_000, 100_000, 12, 12)


@pytest.mark.parametrize("ratio", [0.97, 1.0, 1.03])
@pytest.mark.parametrize("before", [False, True])
def test_between_the_limits_nothing_changes(ratio: float, before: bool) -> None:
    guard = losing(Guard()) if before else Guard()
    see(guard, [routed(1000 * ratio), llm_only(1000)] * 200)
    assert guard.state(8).llm_only is before


def test_it_leaves_when_routing_wins_again() -> None:
    guard = losing(Guard())
    see(guard, [routed(800), llm_only(1000)] * 100)
    assert not guard.state(8).llm_only
    assert "0.80x" in guard.state(8).reason


def test_figures_that_scatter_too_much_prove_nothing() -> None:
    dice = random.Random(0)
    guard = Guard()
    see(guard, [llm_only(1000)] * 8 + [routed(1200 * dice.lognormvariate(0, 1)) for _ in range(8)])
    sure = Guard()
    see(sure, [llm_only(1000)] * 12 + [routed(1300 * dice.lognormvariate(0, 0.01)) for _ in range(12)])
    assert not guard.state(8).llm_only
    assert sure.state(8).llm_only


def test_one_answer_that_waited_for_a_lost_worker_decides_nothing() -> None:
    guard = Guard()
    see(guard, [routed(700), llm_only(1000)] * 12 + [routed(1_000_000)] * 5)
    assert not guard.state(8).llm_only


@pytest.mark.parametrize("kind", Kind)
def test_what_had_the_other_kind_beside_it_is_not_compared(kind: Kind) -> None:
    """Each alone among the others looks as a look would not find it."""
    pure, mixed = (routed, llm_only) if kind is Kind.ROUTED else (llm_only, routed)
    guard = Guard()
    see(guard, [pure(1000), mixed(3000, purity=0.6)] * 40)
    assert "too few answers" in guard.state(8).reason


def test_a_look_comes_once_enough_is_known_to_compare_it_with_and_says_that_it_is_one() -> None:
    guard = Guard()
    for _ in range(8):  # as many as run at once
        assert guard.choose(8) == Choice(Kind.ROUTED)
        guard.observe(routed(500))
    look = guard.choose(8)
    assert (look.kind, look.is_look) == (Kind.LLM_ONLY, True)
    assert look.reason == "a look at what LLM-only answers take at 6-11 sessions beside routed ones (n=8 and 0)."


@pytest.mark.parametrize("favoured", Kind)
def test_a_look_that_sees_nothing_ends_and_the_next_is_far(favoured: Kind) -> None:
    """Its answers may fail, or have budgets, or never be pure."""
    guard = losing(Guard()) if favoured is Kind.LLM_ONLY else Guard()
    answer = routed if favoured is Kind.ROUTED else llm_only
    turns = []
    for _ in range(400):
        turns.append(guard.choose(8).is_look)
        guard.observe(answer(1000))
    most, first = 16 + RULES.max_begun, turns.index(True)
    assert turns[first : first + most + 200] == [True] * most + [False] * 200


def test_looks_that_change_nothing_grow_rare() -> None:
    guard, turns = Guard(), []
    for _ in range(2000):
        choice = guard.choose(1)
        turns.append(choice.is_look)
        guard.observe(routed(500, load=1) if is_routed(choice) else llm_only(1000, load=1))
    assert not guard.state(1).llm_only
    begins = [at for at, (before, now) in enumerate(pairwise(turns)) if now and not before]
    gaps = [later - sooner for sooner, later in pairwise(begins)]
    assert gaps == sorted(gaps)
    assert sum(turns[1000:]) < 1000 / 2**RULES.last_rest + RULES.min_seen


def test_a_favoured_kind_that_has_become_much_slower_is_looked_past_at_once() -> None:
    def answers_until_a_look(guard: Guard, per_token_us: float) -> int:
        for num in range(400):
            if guard.choose(1).is_look:
                return num
            guard.observe(routed(per_token_us, load=1))
        raise AssertionError("it never looked")

    waits = []
    for then_us in (500, 900):
        guard = Guard()
        answers_until_a_look(guard, 500)
        see(guard, [llm_only(1000, load=1)] * RULES.min_seen)
        waits.append(answers_until_a_look(guard, then_us))
    assert waits[1] < 10 < waits[0]


def test_shorter_traces_count_for_routing_once_they_are_seen() -> None:
    """Dearer per token, but half as long."""
    guard = Guard()
    see(guard, [llm_only(1000, 200, load=1), routed(700, 100, load=1)] * 40)
    see(guard, [routed(1300, 100), llm_only(1000, 200)] * 60)
    assert not guard.state(8).llm_only
    assert guard.state(8).routed_us < guard.state(8).llm_only_us


def test_a_question_s_length_does_not_count_against_either() -> None:
    """The same answers, but the routed ones were asked for longer texts at a load where the LLM was not seen."""
    guard = Guard()
    see(guard, [llm_only(1000, num) for num in range(50, 70)] + [routed(900, num) for num in range(60, 80)])
    assert not guard.state(8).llm_only


def test_other_workers_make_a_new_beginning() -> None:
    guard = Guard()
    guard.set_pair(("a", "b"))
    losing(guard)
    guard.set_pair(("a", "b"))
    assert not is_routed(guard.choose(8))
    guard.set_pair(("a", "c"))
    assert is_routed(guard.choose(8))
    assert set(guard.states()) == set()


def test_what_is_known_is_told_of_each_load() -> None:
    guard = losing(Guard())
    see(guard, [routed(500, load=1)] * 4)
    assert {load: at.llm_only for load, at in guard.states().items()} == {"1 session": False, "6-11 sessions": True}


def test_load_is_the_mean_over_an_answer_s_time() -> None:
    load = LoadMeter()
    load.enter("a", 10.0)
    load.enter("b", 12.0)
    assert load.num == 2
    assert load.leave("b", 14.0).load == 2
    assert load.leave("a", 14.0).load == 1.5
    load.enter("c", 20.0)
    assert load.leave("c", 20.0).load == 1
    assert load.num == 0


def test_purity_is_the_share_of_an_answer_s_own_kind_among_those_that_were_chosen() -> None:
    load = LoadMeter()
    load.enter("a", 0.0, Kind.ROUTED, chosen=True)
    load.enter("somebody's wish", 0.0, Kind.LLM_ONLY)
    load.enter("no kind", 0.0)
    load.enter("b", 1.0, Kind.LLM_ONLY, chosen=True)
    assert load.leave("a", 2.0).purity == 2 / 3
    assert load.leave("b", 3.0).purity == 2 / 3
    assert load.leave("somebody's wish", 3.0).purity == pytest.approx((3 + 2) / (3 + 2 + 2))
    assert load.leave("no kind", 3.0).purity == 1
    load.enter("c", 4.0, Kind.ROUTED, chosen=True)
    assert load.leave("c", 4.0).purity == 1


def test_a_shift_is_that_of_two_samples_and_few_far_values_do_not_move_it() -> None:
    dice = random.Random(1)
    these = [dice.gauss(1.5, 0.2) for _ in range(30)]
    those = [dice.gauss(1.0, 0.2) for _ in range(30)]
    found = shift(these, those)
    assert found.value == pytest.approx(0.5, abs=0.1)
    assert shift([*these, 1e6], those).value == pytest.approx(found.value, abs=0.05)
    back = shift(those, these)
    assert (back.value, back.error) == pytest.approx((-found.value, found.error))
    errors = [abs(shift(dice.choices(these, k=8), dice.choices(those, k=8)).value - 0.5) for _ in range(300)]
    assert sum(error < 2 * shift(these[:8], those[:8]).error for error in errors) > 270


def test_what_is_known_grows_surer_and_is_forgotten_when_refuted() -> None:
    known = None
    for value in (0.3, 0.5, 0.4, 0.4):
        known = after(known, Difference(value, 0.2))
    assert known is not None
    assert known.value == pytest.approx(0.4, abs=0.05)
    assert known.error < 0.2
    refuted = Difference(-1.0, 0.1)
    assert after(known, refuted) == refuted
