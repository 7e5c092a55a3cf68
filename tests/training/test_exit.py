"""A model with an exit: what each of its writers learns, and that what is trained is what is served."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from evals.tasks.tiny.words import WORDS
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.shared_layers.model import CONFIG, WEIGHTS, load_exit
from tests.support.exits import save_pair
from training.exit.data import batches, encode
from training.exit.train import Recipe, Writers
from training.tiny.data import IGNORE

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(str(MODELS / "tiny-llm"))


def test_each_writer_learns_to_begin_its_own_lines_and_to_go_on_with_all(tokenizer: PreTrainedTokenizerFast) -> None:
    rng = random.Random(3)
    unlearned = {"llm": set(), "exit": set()}
    for problem in WORDS.generator.problems("train", 30):
        ids, llm, exit_ = encode(tokenizer, problem, rng)
        answer = ids.index(tokenizer.convert_tokens_to_ids("<|assistant|>")) + 1
        assert set(llm[:answer]) == set(exit_[:answer]) == {IGNORE}
        for name, labels in (("llm", llm), ("exit", exit_)):
            for id_, label in zip(ids[answer:], labels[answer:], strict=True):
                assert label in (id_, IGNORE)
                if label == IGNORE:
                    unlearned[name].add(tokenizer.decode([id_]).strip())
        # A line that one does not learn to begin is the other's.
        assert not any(a == b == IGNORE for a, b in zip(llm[answer:], exit_[answer:], strict=True))
    assert all(text.isdigit() for text in unlearned["llm"])
    assert unlearned["exit"] <= {"Add", "Subtract", "Multiply", "Divide", "Count"}
    assert unlearned["llm"]
    assert unlearned["exit"]


def test_the_stream_is_a_function_of_the_seed(tokenizer: PreTrainedTokenizerFast) -> None:
    first, again = (next(batches(tokenizer, 5, 512)) for _ in range(2))
    for name in ("ids", "llm_labels", "exit_labels"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    learned = first.llm_labels[:, :-1] != IGNORE
    assert torch.equal(first.llm_labels[:, :-1][learned], first.ids[:, 1:][learned])


def test_the_losses_are_those_of_the_two_models_that_are_served(tokenizer: PreTrainedTokenizerFast) -> None:
    folder = MODELS / "tiny-exit"
    llm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    exit_ = load_exit(str(folder), llm)
    writers = Writers(llm, Recipe(num_layers=exit_.num_layers, adapter_size=exit_.tail.gate.out_features))
    writers.tail.load_state_dict(exit_.tail.state_dict())
    batch = next(batches(tokenizer, 6, 1_024))
    with torch.no_grad():
        found = [float(loss) for loss in writers.losses(batch)]
        expected = [
            float(torch.nn.functional.cross_entropy(model(batch.ids, use_cache=False).logits.transpose(1, 2), labels))
            for model, labels in ((llm, batch.llm_labels), (exit_.module, batch.exit_labels))
        ]
    assert found == pytest.approx(expected, rel=0.2, abs=0.01)  # the losses are taken in bfloat16


def test_a_folder_without_a_right_exit_is_refused_by_name(tmp_path: Path) -> None:
    folder = save_pair(tmp_path / "model")
    llm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    assert load_exit(str(folder), llm).num_layers == 1
    good = json.loads((folder / CONFIG).read_text())
    for broken, said in (
        ("{", "not readable"),
        ("{}", "not readable"),
        (json.dumps(good | {"num_layers": 9}), "choose 1 to 2"),
        (json.dumps(good | {"adapter_size": 7}), f"{WEIGHTS} do not fit"),
    ):
        (folder / CONFIG).write_text(broken)
        with pytest.raises(UnsupportedModel, match=said):
            load_exit(str(folder), llm)
    (folder / CONFIG).unlink()
    with pytest.raises(UnsupportedModel, match=CONFIG):
        load_exit(str(folder), llm)
