"""A model with shared layers: what each of its writers learns, and that what is trained is what is served."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from evals.tasks.tiny.words import WORDS
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.shared_layers.model import CONFIG, WEIGHTS, load_shared
from tests.support.shared_layers import save_pair
from training.shared_layers.data import batches, encode
from training.shared_layers.train import Recipe, Writers
from training.tiny.data import IGNORE

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(str(MODELS / "tiny-llm"))


def test_each_writer_learns_to_begin_its_own_lines_and_to_go_on_with_all(tokenizer: PreTrainedTokenizerFast) -> None:
    rng = random.Random(3)
    unlearned = {"llm": set(), "slm": set()}
    for problem in WORDS.generator.problems("train", 30):
        ids, llm, slm = encode(tokenizer, problem, rng)
        answer = ids.index(tokenizer.convert_tokens_to_ids("<|assistant|>")) + 1
        assert set(llm[:answer]) == set(slm[:answer]) == {IGNORE}
        for name, labels in (("llm", llm), ("slm", slm)):
            for id_, label in zip(ids[answer:], labels[answer:], strict=True):
                assert label in (id_, IGNORE)
                if label == IGNORE:
                    unlearned[name].add(tokenizer.decode([id_]).strip())
        # A line that one does not learn to begin is the other's.
        assert not any(a == b == IGNORE for a, b in zip(llm[answer:], slm[answer:], strict=True))
    assert all(text.isdigit() for text in unlearned["llm"])
    assert unlearned["slm"] <= {"Add", "Subtract", "Multiply", "Divide", "Count"}
    assert unlearned["llm"]
    assert unlearned["slm"]


def test_the_stream_is_a_function_of_the_seed(tokenizer: PreTrainedTokenizerFast) -> None:
    first, again = (next(batches(tokenizer, 5, 512)) for _ in range(2))
    for name in ("ids", "llm_labels", "slm_labels"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    learned = first.llm_labels[:, :-1] != IGNORE
    assert torch.equal(first.llm_labels[:, :-1][learned], first.ids[:, 1:][learned])


def test_the_losses_are_those_of_the_two_models_that_are_served(tokenizer: PreTrainedTokenizerFast) -> None:
    folder = MODELS / "tiny-shared-layers"
    llm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    shared = load_shared(str(folder), llm)
    writers = Writers(llm, Recipe(num_layers=shared.num_layers, adapter_size=shared.tail.gate.out_features))
    writers.tail.load_state_dict(shared.tail.state_dict())
    batch = next(batches(tokenizer, 6, 1_024))
    with torch.no_grad():
        found = [float(loss) for loss in writers.losses(batch)]
        expected = [
            float(torch.nn.functional.cross_entropy(model(batch.ids, use_cache=False).logits.transpose(1, 2), labels))
            for model, labels in ((llm, batch.llm_labels), (shared.slm, batch.slm_labels))
        ]
    assert found == pytest.approx(expected, rel=0.2, abs=0.01)  # the losses are taken in bfloat16


def test_a_folder_without_a_right_slmis_refused_by_name(tmp_path: Path) -> None:
    folder = save_pair(tmp_path / "model")
    llm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    assert load_shared(str(folder), llm).num_layers == 1
    good = json.loads((folder / CONFIG).read_text())
    for broken, said in (
        ("{", "not readable"),
        ("{}", "not readable"),
        (json.dumps(good | {"num_layers": 9}), "choose 1 to 2"),
        (json.dumps(good | {"adapter_size": 7}), f"{WEIGHTS} do not fit"),
    ):
        (folder / CONFIG).write_text(broken)
        with pytest.raises(UnsupportedModel, match=said):
            load_shared(str(folder), llm)
    (folder / CONFIG).unlink()
    with pytest.raises(UnsupportedModel, match=CONFIG):
        load_shared(str(folder), llm)
