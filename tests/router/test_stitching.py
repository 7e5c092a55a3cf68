"""The stitched answer is Algorithm 1's, whatever the tau, however messages are cut and sessions evicted."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.asking import ask_for, check_kept, take, threshold
from tests.support.toy import ToyModel, algorithm_1
from tests.support.toy_stack import Stack

TAUS = [(-1, -1), (0, 0), (0.02, 0.02), (0.3, 0.3), (0.5, 0.1), (0.2, 0.9), (0.5, -1), (-0.5, 1), (0.999, 0.5), (1, 1)]


@pytest.mark.parametrize("seed", range(3))
async def test_threshold_is_algorithm_1_for_every_tau(stack: Stack, seed: int) -> None:
    stack.slm.model, stack.llm.model = ToyModel(10 + seed), ToyModel(20 + seed)
    stub = await stack.stub(await stack.router())

    async def one(tau: float, tau_return: float, prompt: list[int]) -> None:
        request = ask_for(prompt, policy=threshold(tau, tau_return), max_new_tokens=60)
        answer = await take(stub, request)
        assert answer.error is None
        tokens, authors = algorithm_1(stack.slm.model, stack.llm.model, prompt, tau, tau_return, 60)
        assert (answer.tokens, answer.authors) == (tokens, authors)
        trajectory = await check_kept(stub, answer)
        assert trajectory.finished == answer.finished
        usage = answer.finished.usage
        assert usage.num_prompt_tokens == len(prompt)
        assert (usage.num_slm_tokens, usage.num_llm_tokens) == (authors.count("slm"), authors.count("llm"))
        assert usage.num_switches == len(answer.switches)
        assert usage.num_discarded_proposals == sum(switch.to == 2 for switch in answer.switches)

    await asyncio.gather(*(one(tau, back, [7 + seed, 8, 9 + n]) for tau, back in TAUS for n in range(3)))
    assert stack.slm.num_streams == stack.llm.num_streams == 0


async def test_tau_below_0_is_the_llm_and_from_1_on_the_slm(stack: Stack) -> None:
    stub = await stack.stub(await stack.router())
    below = await take(stub, ask_for(policy=threshold(-0.5), max_new_tokens=50))
    llm = await take(stub, ask_for(policy={"llm_only": {}}, max_new_tokens=50))
    above = await take(stub, ask_for(policy=threshold(1), max_new_tokens=50))
    slm = await take(stub, ask_for(policy={"slm_only": {}}, max_new_tokens=50))
    assert below.tokens == llm.tokens
    assert above.tokens == slm.tokens
    assert llm.tokens != slm.tokens


async def test_one_model_alone_never_touches_the_other(stack: Stack) -> None:
    stub = await stack.stub(await stack.router())
    await stack.llm.stop()
    answer = await take(stub, ask_for(policy={"slm_only": {}}))
    assert answer.error is None
    assert set(answer.authors) == {"slm"}
    assert not stack.llm.requests
