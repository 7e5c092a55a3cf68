"""Heads: the file goes round, what does not fit is refused, what changes in the folder counts at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from safetensors.numpy import load, save

from router_svc.policies.heads import Heads
from router_svc.workers.runs import WorkerInfo
from rstitch.errors import RstitchError
from rstitch.service.head import Head, HeadFacts, HeadFileError
from tests.support.heads import put, random_head

SLM = WorkerInfo(
    role=None, model="", fingerprint="abc", vocab_size=1, stop_tokens=frozenset(), context_length=1, dtype="",
    device="", num_parameters=1, instance_id="", hidden_size=8,
)  # fmt: skip


@contextmanager
def refused(code: grpc.StatusCode, reason: str, *words: str) -> Iterator[None]:
    """The error names the field, and what to do."""
    with pytest.raises(RstitchError) as caught:
        yield
    error = caught.value
    assert (error.code, error.reason, error.field) == (code, reason, "policy.learned.name")
    assert error.remedy
    assert all(word in str(error) for word in words), str(error)


def test_a_head_file_goes_round() -> None:
    head = random_head(8, seed=1, fingerprint="abc", tau=0.02)
    again = Head.from_bytes(head.data)
    assert (again.facts, again.version, again.sizes) == (head.facts, head.version, [9, 16, 2])
    state = np.arange(8, dtype="<f4").tobytes()
    assert again.logits(state, 7).tolist() == head.logits(state, 7).tolist()
    assert again.num_parameters == 9 * 16 + 16 + 16 * 2 + 2


def test_a_head_is_the_mlp_that_it_says_it_is() -> None:
    rng = np.random.default_rng(0)
    mean, std = rng.normal(size=9).astype(np.float32), rng.uniform(1, 2, 9).astype(np.float32)
    layers = [
        (rng.normal(size=(5, 9)).astype(np.float32), rng.normal(size=5).astype(np.float32)),
        (rng.normal(size=(2, 5)).astype(np.float32), rng.normal(size=2).astype(np.float32)),
    ]
    head = Head(HeadFacts(8, "", 0.1), mean, std, layers)
    state = rng.normal(size=8).astype("<f4")
    x = (np.append(state, 41) - mean) / std
    hidden = np.maximum(layers[0][0] @ x + layers[0][1], 0)
    expected = layers[1][0] @ hidden + layers[1][1]
    np.testing.assert_allclose(head.logits(state.tobytes(), 41), expected, rtol=1e-5)
    assert head.wants_llm(state.tobytes(), 41) == (expected[1] > expected[0])


@pytest.mark.parametrize(
    "facts",
    [
        "3", "null", "[]", '{"format": 1}',
        '{"format": 1, "hidden_size": "8", "tokenizer_fingerprint": "", "tau": 0.1}',
        '{"format": 1, "hidden_size": 8.0, "tokenizer_fingerprint": "", "tau": 0.1}',
        '{"format": 1, "hidden_size": 8, "tokenizer_fingerprint": 7, "tau": 0.1}',
        '{"format": 1, "hidden_size": 8, "tokenizer_fingerprint": "", "tau": "0.1"}',
        '{"format": 1, "hidden_size": 8, "tokenizer_fingerprint": "", "tau": NaN}',
        '{"format": 1, "hidden_size": 8, "tokenizer_fingerprint": "", "tau": 2.5}',
    ],
)  # fmt: skip
def test_a_head_whose_facts_are_none_is_no_head(facts: str) -> None:
    """They would fail in the midst of an answer, or in the worker's engine."""
    data = save(load(random_head(8).data), {"rstitch_head": facts})
    with pytest.raises(HeadFileError):
        Head.from_bytes(data)


def test_what_is_no_head_says_why() -> None:
    good = random_head(8)
    tensors = load(good.data)
    for data, words in (
        (b"", "no head"),
        (b"not a file of tensors at all", "no head"),
        (good.data[:-4], "no head"),
        (save(tensors), "__metadata__"),
    ):
        with pytest.raises(HeadFileError, match=words):
            Head.from_bytes(data)
    ones = np.ones(9, np.float32)
    for layers, words in (
        ([], "two logits"),
        ([(np.ones((3, 9), np.float32), np.ones(3, np.float32))], "two logits, not 3"),
        ([(np.ones((2, 8), np.float32), np.ones(2, np.float32))], r"\[2, 8\], not \[2, 9\]"),
        ([(np.full((2, 9), np.nan, np.float32), np.ones(2, np.float32))], "not finite"),
        ([(np.ones((2, 9)), np.ones(2))], "float32"),
    ):
        with pytest.raises(HeadFileError, match=words):
            Head(good.facts, ones, ones, layers)
    with pytest.raises(ValueError, match="8 numbers, not of 7"):
        good.logits(bytes(28), 3)


def test_a_head_is_found_replaced_and_missed_without_a_restart(tmp_path: Path) -> None:
    heads = Heads(str(tmp_path), lambda: SLM)
    with refused(grpc.StatusCode.NOT_FOUND, "HEAD_UNKNOWN", "no head tiny", "--heads"):
        heads.get("tiny")
    first, second = random_head(8, seed=1), random_head(8, seed=2)
    put(tmp_path, "tiny", first)
    assert heads.get("tiny").full_name == f"tiny@{first.version}"
    assert heads.get("tiny").head is heads.get(f"tiny@{first.version}").head, "read once"
    put(tmp_path, "tiny", second)
    assert heads.get("tiny").head.version == second.version
    with refused(grpc.StatusCode.NOT_FOUND, "HEAD_UNKNOWN", f"no version {first.version} any more"):
        heads.get(f"tiny@{first.version}")
    put(tmp_path, f"tiny@{first.version}", first)
    assert heads.get(f"tiny@{first.version}").full_name == f"tiny@{first.version}"
    (tmp_path / "tiny" / "head.safetensors").unlink()
    with refused(grpc.StatusCode.NOT_FOUND, "HEAD_UNKNOWN", "no head tiny"):
        heads.get("tiny")


def test_a_head_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    heads = Heads(str(tmp_path), lambda: SLM)
    put(tmp_path, "wide", random_head(16))
    put(tmp_path, "other", random_head(8, fingerprint="xyz"))
    put(tmp_path, "broken", random_head(8)).write_bytes(b"nothing of the kind")
    put(tmp_path, "good", random_head(8, fingerprint="abc"))
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "HEAD_MISFIT", "16 numbers, the SLM's have 8"):
        heads.get("wide")
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "HEAD_MISFIT", "another tokenizer"):
        heads.get("other")
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "HEAD_UNREADABLE", "broken"):
        heads.get("broken")
    assert {state.name: bool(state.detail) for state in heads.states()} == {
        "broken": True, "good": False, "other": True, "wide": True,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["a--b/c", "a/b..c", "a/b-", "a/b.git", "a./b"])
def test_what_the_hub_takes_for_no_name_is_not_found(tmp_path: Path, name: str) -> None:
    with refused(grpc.StatusCode.NOT_FOUND, "HEAD_UNKNOWN", "the hub has no head"):
        Heads(str(tmp_path), lambda: SLM, [name]).get(name)


@pytest.mark.parametrize(
    "name", ["", "../tiny", "a/b/c", "tiny@", "tiny@XYZ", ".hidden", "a b", "x" * 97, f"{'x' * 60}/{'y' * 36}"]
)
def test_what_names_no_head_is_refused(tmp_path: Path, name: str) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"):
        Heads(str(tmp_path), lambda: SLM).get(name)


def test_without_a_folder_there_are_no_heads() -> None:
    heads = Heads("", lambda: None)
    assert heads.states() == []
    with refused(grpc.StatusCode.NOT_FOUND, "HEAD_UNKNOWN", "--heads"):
        heads.get("tiny")
