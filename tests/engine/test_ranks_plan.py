"""Which models are divided, into how many parts, and that each part is a part: without running anything."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.bamba import BambaConfig
from transformers.models.gpt2 import GPT2Config
from transformers.models.mixtral import MixtralConfig
from transformers.models.phi3 import Phi3Config

from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.ranks.dividing import Gathered, Summed, divide
from model_worker.engine.ranks.plan import Way, bounds, check_divisible, fitting_sizes, planned
from tests.support.pairs import CONFIGS, make_model
from tests.support.ranks import Meeting, ThreadRanks

MODELS = Path(__file__).parents[2] / "models"
SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}


def on_meta(config: Any) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize(("num", "size"), [*itertools.product([1, 3, 7, 192, 512, 634, 11008], [1, 2, 3, 5, 8])])
def test_bounds_share_everything_out_and_keep_blocks_whole(num: int, size: int) -> None:
    parts = [bounds(num, rank, size) for rank in range(size)]
    assert [number for begin, end in parts for number in range(begin, end)] == list(range(num))
    sizes = [end - begin for begin, end in parts]
    if num % size == 0:
        assert len(set(sizes)) == 1
    elif num % 16 == 0 and num >= 16 * size:
        assert all(part % 16 == 0 for part in sizes)
    assert max(sizes) - min(sizes) <= 16


def test_the_bundled_model_is_divided_by_its_heads() -> None:
    check_divisible(str(MODELS / "tiny-llm"), 3)
    for size in (2, 6, 7):
        with pytest.raises(UnsupportedModel, match=f"--tp {size} does not divide its 3 heads; 1 and 3 do"):
            check_divisible(str(MODELS / "tiny-llm"), size)


@pytest.mark.parametrize(
    ("architecture", "sizes"), [("llama", [1, 2]), ("qwen3", [1, 2]), ("gemma", [1]), ("gpt_neox", [1, 2, 4])]
)
def test_heads_of_keys_are_divided_too(architecture: str, sizes: list[int], tmp_path: Path) -> None:
    module = on_meta(CONFIGS[architecture])
    assert fitting_sizes(module, planned(architecture, module)) == sizes
    CONFIGS[architecture].save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match="only 1 does" if sizes == [1] else f"{sizes[-2]} and {sizes[-1]} do"):
        check_divisible(str(tmp_path), 3)


def test_a_plan_that_leaves_heads_whole_fits_any_number() -> None:
    module = on_meta(Phi3Config(**SMALL))
    ways = planned("phi3", module)
    assert ways["model.layers.0.self_attn.qkv_proj"] is Way.GATHERED
    assert ways["model.layers.1.mlp.down_proj"] is Way.CHOSEN_INPUTS
    assert fitting_sizes(module, ways) is None


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            GPT2Config(n_embd=32, n_layer=1, n_head=2),
            "no plan to divide its layers",
        ),
        (MixtralConfig(**SMALL), r"plan to divide it says \w+ of model\.layers\.0\.mlp\.experts"),
        (BambaConfig(**SMALL, attn_layer_indices=[1], mamba_n_heads=4, mamba_d_head=16), "layers that keep states"),
    ],
    ids=["no plan", "experts", "states"],
)
def test_what_cannot_be_divided_is_refused_by_its_config(config: Any, words: str, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match=words):
        check_divisible(str(tmp_path), 2)


def test_a_quantized_folder_is_refused(tmp_path: Path) -> None:
    config = copy.deepcopy(CONFIGS["llama"])
    config.quantization_config = {"quant_method": "gptq", "bits": 4}
    config.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match=r"quantized \(gptq\)"):
        check_divisible(str(tmp_path), 2)


def test_the_parts_are_the_whole_and_nothing_is_there_twice() -> None:
    whole = make_model(CONFIGS["qwen2"], 0)
    parts = [copy.deepcopy(whole) for _ in range(2)]
    for rank, part in enumerate(parts):
        divide(part, ThreadRanks(rank, Meeting(2)))
    name = "model.layers.0.self_attn.q_proj"  # with a bias
    outputs = [part.get_submodule(name) for part in parts]
    assert all(type(each) is nn.Linear and each.out_features == 16 for each in outputs)
    assert torch.equal(torch.cat([each.weight for each in outputs]), whole.get_submodule(name).weight)
    assert torch.equal(torch.cat([each.bias for each in outputs]), whole.get_submodule(name).bias)
    inputs = [part.get_submodule("model.layers.1.mlp.down_proj") for part in parts]
    assert all(type(each) is Summed for each in inputs)
    assert torch.equal(
        torch.cat([each.weight for each in inputs], dim=1), whole.get_submodule("model.layers.1.mlp.down_proj").weight
    )
    heads = [part.get_output_embeddings() for part in parts]
    assert all(type(each) is Gathered for each in heads)
    assert torch.equal(torch.cat([each.weight for each in heads]), whole.get_output_embeddings().weight)
    storage = outputs[0].weight.untyped_storage()
    assert storage.nbytes() == outputs[0].weight.numel() * 8, "a view would keep the whole in memory"
