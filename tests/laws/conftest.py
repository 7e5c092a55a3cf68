"""Pairs of models and the stacks that serve them, which many laws share: to start one takes longer than most laws.

A law that kills a part of a stack starts it again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rstitch.client.aio import AsyncClient
from rstitch.local.stack import LocalStack
from tests.support.pairs import make_tokenizer, save_model
from tests.support.served import ROOT, Pair, start_stack


@pytest.fixture(scope="session")
def random_pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Two architectures with random weights, in float64, where rounding cannot blur tau."""
    folder = tmp_path_factory.mktemp("pair")
    return Pair(save_model(folder / "slm", "llama", 1), save_model(folder / "llm", "qwen2", 2), "float64")


@pytest.fixture(scope="session")
def stack(random_pair: Pair) -> Iterator[LocalStack]:
    """The random pair, served."""
    with start_stack(random_pair) as running:
        yield running


@pytest.fixture
async def client(stack: LocalStack) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(stack.router_address, timeout_s=100) as connected:
        yield connected


@pytest.fixture(scope="session")
def kindred_pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A random SLM, and as its LLM the same model with a little noise: often, not always, of its opinion."""
    folder = tmp_path_factory.mktemp("kindred")
    slm = save_model(folder / "slm", "llama", 1)
    model = AutoModelForCausalLM.from_pretrained(slm, dtype=torch.float64)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.add_(0.05 * parameter.std() * torch.randn_like(parameter))
    model.save_pretrained(folder / "llm")
    make_tokenizer().save_pretrained(folder / "llm")
    return Pair(slm, folder / "llm", "float64")


@pytest.fixture(scope="session")
def kindred_stack(kindred_pair: Pair) -> Iterator[LocalStack]:
    """The kindred pair, served."""
    with start_stack(kindred_pair) as running:
        yield running


@pytest.fixture(scope="session")
def bundled_pair() -> Pair:
    """The tiny pair that comes with the repository."""
    folder = ROOT / "models"
    tokenizer = AutoTokenizer.from_pretrained(folder / "tiny-llm")
    sizes = {"vocab_size": len(tokenizer), "stop_token": tokenizer.eos_token_id}
    return Pair(folder / "tiny-slm", folder / "tiny-llm", "float32", **sizes)


@pytest.fixture(scope="session")
def bundled_stack(bundled_pair: Pair) -> Iterator[LocalStack]:
    """The bundled pair, served."""
    with start_stack(bundled_pair) as running:
        yield running
