"""What fits where is computed from configs alone, and agrees with what workers do with the same figures."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.gpt_oss import GptOssConfig
from transformers.models.mamba import MambaConfig

from evals.fits import document
from evals.fits.__main__ import main
from evals.fits.placing import placed
from evals.fits.presets import CONFIGS, PAIRS
from evals.fits.sizing import SESSION_TOKENS, Sized, sized
from model_worker.engine.bookkeeping.windows import MARGIN
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.loader import load
from model_worker.engine.forward.memory import room_for_cache, tokens_beside, weight_bytes, window_share
from tests.support.pairs import CONFIGS as SMALL_CONFIGS
from tests.support.pairs import make_model, save_model, save_model_of
from tests.support.ranks import ranked_engine
from tests.support.windowed import WINDOWED

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def test_the_page_has_what_the_command_writes() -> None:
    page = (ROOT / "docs" / "pairs.md").read_text()
    found = re.search(r"<!-- fits:begin -->\n(.*)\n<!-- fits:end -->", page, re.DOTALL)
    assert found is not None
    assert found[1] == document.table(), "run `rstitch fits --write`"


def test_the_pairs_of_env_example_are_known_offline() -> None:
    named = re.findall(r"^#   (\S+) .*? GB \+ \S+ +(\S+) ", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert set(named) == set(PAIRS)
    assert {name for pair in PAIRS for name in pair} == set(CONFIGS)


@pytest.mark.parametrize(
    ("name", "billions", "gigabytes", "kib"),
    [
        # As docs/pairs.md and the models' cards have it.
        ("l3lab/L1-1.5B-Short", 1.78, 3.6, 28),
        ("Qwen/QwQ-32B", 32.76, 65.5, 256),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", 70.55, 141.1, 320),
        ("openai/gpt-oss-120b", 116.83, 233.7, 36),
        ("google/gemma-3-27b-it", 27.01, 54.0, 80),
        ("Qwen/Qwen3.5-27B", 26.90, 53.8, 64),
    ],
)
def test_a_preset_has_the_sizes_that_are_published(name: str, billions: float, gigabytes: float, kib: int) -> None:
    found = sized(name)
    assert round(found.parameters / 1e9, 2) == billions
    assert round(found.weights["bf16"] / 1e9, 1) == gigabytes
    assert found.kv_per_token == kib * 1024, "of layers that see everything"


@pytest.mark.parametrize("kind", ["bf16", "int8", "int4"])
def test_weights_are_those_that_a_worker_then_holds(kind: Any) -> None:
    folder = str(ROOT / "models" / "tiny-llm")
    held = weight_bytes(load(folder, torch.bfloat16, CPU, quantized="none" if kind == "bf16" else kind).module)
    # A scale per output is not counted, which in a model as narrow as this is seen.
    assert sized(folder).weights[kind] == pytest.approx(held, rel=0.01)


@pytest.mark.parametrize("name", sorted(WINDOWED))
def test_windows_are_counted_as_a_worker_gives_them_room(tmp_path: Path, name: str) -> None:
    folder = str(save_model_of(tmp_path / name, WINDOWED[name], 0))
    found, loaded = sized(folder), load(folder, torch.bfloat16, CPU)
    assert found.kv_per_token + found.window_per_token == loaded.kv_bytes_per_token
    assert found.window_per_token == loaded.window_bytes_per_token
    if found.window_per_token:
        # A session as long as is expected takes the share of the windows' layers that a worker gives it.
        longer = dataclasses.replace(loaded, context_length=1 << 17)
        share = window_share(longer, 256, 512)
        expected = (found.kv_per_token + share * found.window_per_token) * SESSION_TOKENS
        assert found.session_bytes() == pytest.approx(expected)


def test_a_recurrent_layer_keeps_a_state_however_long_the_session() -> None:
    found = sized("Qwen/Qwen3.5-0.8B")
    # 18 layers of 16 heads with 128 x 128 numbers each, and three tokens of the convolution's 6,144 inputs.
    assert found.state == 18 * 4 * (16 * 128 * 128 + 3 * 6144)
    assert found.session_bytes(2000) - found.session_bytes(1000) == 1000 * found.kv_per_token


def test_one_card_is_shared_as_two_workers_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = (str(ROOT / "models" / name) for name in ("tiny-slm", "tiny-llm"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 1_000_000_000))
    loaded = dataclasses.replace(load(small, torch.bfloat16, CPU), device=torch.device("cuda:0"))
    (plain, *_) = placed(sized(small), sized(large), (1.0,))
    assert plain.precision == "bf16"
    assert plain.tokens == pytest.approx(tokens_beside(loaded, large), abs=2)


def test_two_cards_hold_what_the_smaller_room_does() -> None:
    slm = Sized("s", 1, {"bf16": 4_000_000_000}, 1000, 0, 0, 0)
    llm = Sized("l", 1, {"bf16": 16_000_000_000, "int8": 8_000_000_000}, 100_000, 0, 0, 0)
    plain, fewer = placed(slm, llm, (24.0, 24.0))
    assert plain.left_bytes == room_for_cache(8_000_000_000)
    assert plain.tokens == plain.left_bytes // 100_000
    assert fewer.tokens == room_for_cache(16_000_000_000) // 100_000
    (none, _) = placed(slm, llm, (24.0, 12.0))
    assert (none.left_bytes, none.tokens, none.sessions) == (-4_000_000_000, 0, 0)


def test_experts_are_sized_as_they_come_and_not_by_quantize(tmp_path: Path) -> None:
    assert list(sized("openai/gpt-oss-20b").weights) == ["bf16", "mxfp4"]
    assert sized("openai/gpt-oss-20b").weights["mxfp4"] / 1e9 == pytest.approx(13.8, abs=0.1), "what the card says"
    config = GptOssConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, num_local_experts=8, num_experts_per_tok=2,
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    assert list(sized(str(tmp_path)).weights) == ["bf16"]


def test_what_no_worker_serves_is_refused_by_name(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match=str(tmp_path)):
        sized(str(tmp_path))
    assert main([str(tmp_path / "nothing"), "Qwen/QwQ-32B"]) == 2
    assert "no such folder" in capfd.readouterr().err
    assert main(["Qwen/QwQ-32B"]) == 2
    assert "Name both models" in capfd.readouterr().err


@pytest.mark.parametrize("wrong", ["", "x", "24,24,24", "0", "-1", "inf", "24,"])
def test_cards_that_are_none_are_refused(wrong: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--gpu", wrong]) == 2
    said = " ".join(capfd.readouterr().err.replace("│", " ").split())
    assert "'--gpu'" in said
    assert "should be the GB of one card, or of two" in said


def test_the_command_says_it_as_a_table_and_as_json(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pair = [str(save_model(tmp_path / name, name, 0)) for name in ("llama", "qwen2")]
    assert main([*pair, "--gpu", "4,4", "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)
    assert [row["precision"] for row in rows] == ["bf16", "int8", "int4"]
    assert rows[0]["sessions"] == rows[0]["tokens"] // SESSION_TOKENS > 0
    assert rows[0]["gpus"] == [4.0, 4.0]
    assert main([*pair, "--slm-precision", "int8"]) == 0
    said = capfd.readouterr().out
    assert "(int8)" in said
    assert "sessions of 8,192" in said
    assert main([*pair, "--slm-precision", "int3"]) == 2
    assert "Choose of bf16, int8, int4" in capfd.readouterr().err


def test_a_window_keeps_what_the_pages_of_a_worker_keep() -> None:
    found = sized("google/gemma-3-27b-it")
    assert found.window_kept == 1024 + MARGIN + 256
    assert found.session_bytes() == 8192 * found.kv_per_token + found.window_kept * found.window_per_token


@pytest.mark.parametrize("architecture", ["qwen2", "gemma2"])  # the latter's LM head is its embeddings
def test_a_card_of_several_has_what_a_rank_has(architecture: str, tmp_path: Path) -> None:
    config = copy.deepcopy(SMALL_CONFIGS[architecture])
    config.tie_word_embeddings = architecture == "gemma2"
    config.save_pretrained(tmp_path)
    found, whole = sized(str(tmp_path), 2), sized(str(tmp_path))
    with ranked_engine(make_model(config, 0).bfloat16(), 2) as engine:
        loaded = engine._runner._loaded
        # Tables of angles are kept in float32, whatever the weights are in.
        assert found.weights == {"bf16": pytest.approx(weight_bytes(loaded.module), abs=1024)}
        assert found.kv_per_token == loaded.kv_bytes_per_token
    assert found.parameters == whole.parameters
    assert found.session_bytes() == SESSION_TOKENS * (whole.kv_per_token + whole.window_per_token) // 2


def test_an_llm_over_two_cards(capsys: pytest.CaptureFixture[str]) -> None:
    pair = ["l3lab/L1-1.5B-Short", "Qwen/QwQ-32B"]
    assert main([*pair, "--gpu", "24,48", "--tp", "2", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["precision"], round(row["llm_gb"], 1), row["sessions"]) == ("bf16", 33.5, 11)
    assert main([*pair, "--gpu", "24,48", "--tp", "3"]) != 0
    assert "1, 2, 4 and 8 do" in capsys.readouterr().err
    assert main([*pair, "--gpu", "48", "--tp", "2"]) != 0
    assert "--gpu two sizes" in capsys.readouterr().err
