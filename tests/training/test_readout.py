"""What a head reads out: rows of the SLM's LM head, found in its files, whatever these are and however large."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rstitch.errors import RstitchError
from rstitch.local.part import bundled_model
from training.head.pair import Pair
from training.head.recipe import Recipe
from training.head.warm_start.beginning import check_files
from training.head.warm_start.chain_states import Chains, chain_states
from training.head.warm_start.readout import LmHead, readout_of
from training.head.warm_start.states import States

SLM = bundled_model("tiny-slm")


@pytest.mark.parametrize("max_bytes", [2**28, 2**14], ids=["at once", "in parts"])
def test_a_readout_is_of_the_tokens_that_the_slm_hesitates_between(max_bytes: int) -> None:
    """Of those that are counted one state after the other, by the whole model."""
    states = chain_states(Chains(SLM, "words", 0.02, 30, seed=5))
    weight = AutoModelForCausalLM.from_pretrained(SLM, dtype=torch.float32).get_output_embeddings().weight.detach()
    counts: Counter[int] = Counter()
    for row in states.inputs[:, :96]:
        counts.update((weight @ row).topk(4).indices.tolist())
    most = sorted(range(len(weight)), key=lambda token: -counts[token])[:6]
    assert counts[most[5]] > 0
    assert torch.equal(readout_of(SLM, states, 6, max_bytes), weight[most])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shard", ["1GB", "20KB"])
def test_the_lm_head_is_found_without_the_model_and_its_padding_is_left_out(
    tied: bool, shard: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(SLM)
    num_tokens = len(tokenizer)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=num_tokens + 30, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                         num_attention_heads=1, tie_word_embeddings=tied)  # fmt: skip
    model = LlamaForCausalLM(config)
    weight = model.get_output_embeddings().weight.detach().clone()
    with torch.no_grad():
        model.get_output_embeddings().weight[num_tokens:] = 100.0  # a padding row would always be the likeliest
    model.save_pretrained(tmp_path, max_shard_size=shard)
    tokenizer.save_pretrained(tmp_path)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", None)
    assert LmHead.of(str(tmp_path)).num_tokens == num_tokens
    hidden = weight[[5, 5, 5, 9]] * 1000  # a row's own direction; few others are as long in it
    states = States(torch.cat([hidden, torch.ones(4, 1)], dim=1), torch.zeros(4), torch.arange(4), 4)
    rows = readout_of(str(tmp_path), states, 12)
    likeliest = (hidden @ weight[:num_tokens].T).topk(4).indices.flatten().bincount(minlength=num_tokens)
    assert torch.equal(rows[:4], weight[likeliest.argsort(descending=True, stable=True)[:4]])
    assert rows.max() < 50


def test_a_checkpoint_of_another_kind_is_loaded_whole(tmp_path: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(SLM)
    tokenizer.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(SLM)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    states = States(torch.randn(4, 97), torch.zeros(4), torch.arange(4), 4)
    assert torch.equal(readout_of(str(tmp_path), states, 6), readout_of(SLM, states, 6))


@pytest.mark.parametrize(
    ("source", "remedy"), [("answers", "Give --num-readout 0,"), ("chains", "--num-readout 0 with --warm-from answers")]
)
def test_files_that_are_not_here_are_refused_before_anything_is_asked(source: str, remedy: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((Path(SLM) / "config.json").read_bytes())
    for slm in ("/no/such/folder", "no-such-folder", str(tmp_path)):
        pair = Pair({"slm": slm, "llm": slm}, {"slm": "cpu", "llm": "cpu"})
        with pytest.raises(RstitchError, match=remedy):
            check_files(tmp_path, Recipe(), pair, source)
        with pytest.raises(RstitchError) if source == "chains" else nullcontext():
            check_files(tmp_path, Recipe(num_readout=0), pair, source)
        (tmp_path / "beginning.pt").touch()
        check_files(tmp_path, Recipe(), pair, source)  # a run that goes on has read them
        (tmp_path / "beginning.pt").unlink()
