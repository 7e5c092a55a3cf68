"""The simulation of two models: laws, and the claims of docs/batching.md that hang on no machine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evals.bench.batching_sim import Pair, delayed, eager, fixed, flat, simulate

PAIR = Pair("toy", (flat(2), flat(9)))


def test_it_is_deterministic() -> None:
    first, again = (simulate(PAIR, (delayed, delayed), 8, num_tokens=1000) for _ in range(2))
    assert first == again
    assert first != simulate(PAIR, (delayed, delayed), 8, num_tokens=1000, seed=1)


@pytest.mark.parametrize("rule", [delayed, fixed(8)])
def test_with_one_session_no_step_is_held_back(rule) -> None:
    got = simulate(PAIR, (rule, rule), 1, num_tokens=1000)
    assert got == simulate(PAIR, (eager, eager), 1, num_tokens=1000)
    assert got.held == (0, 0)


def test_one_session_takes_what_its_steps_take() -> None:
    """Per LLM token: its step, the SLM's steps for its share of tokens, the proposal's step, and two switches a run."""
    pair = replace(PAIR, llm_run=1.0)
    per_llm_token_s = 0.009 + 0.002 * pair.slm_run + 2 * pair.switch_s
    expected = 1 / pair.llm_share / per_llm_token_s
    assert simulate(pair, (eager, eager), 1, num_tokens=40_000).tokens_per_s == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("num_sessions", [4, 16])
def test_the_rule_loses_little_where_a_size_that_is_too_large_loses_much(num_sessions: int) -> None:
    base = simulate(PAIR, (eager, eager), num_sessions).tokens_per_s
    assert simulate(PAIR, (delayed, delayed), num_sessions).tokens_per_s > 0.95 * base
    assert simulate(PAIR, (eager, fixed(16)), num_sessions).tokens_per_s < 0.7 * base


def test_a_gate_that_lets_the_slm_go_on_beats_lock_step_on_one_device() -> None:
    lock_step = simulate(replace(PAIR, shared=True, slm_steps=1), (eager, eager), 16).tokens_per_s
    gated = simulate(replace(PAIR, shared=True, slm_steps=8), (eager, eager), 16).tokens_per_s
    two_devices = simulate(PAIR, (eager, eager), 16).tokens_per_s
    assert lock_step < PAIR.llm_only_tokens_per_s(16) < gated < two_devices
