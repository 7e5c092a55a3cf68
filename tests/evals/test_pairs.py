"""Laws of pair selection: a walk over two known answers is Algorithm 1 where it can be; what is proposed follows."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from evals.algorithm.reference import Threshold, stitch
from evals.algorithm.uncached_model import UncachedModel
from evals.latency import Decode, LatencyModel, ModelLatency, Prefill
from evals.pairs.__main__ import main
from evals.pairs.check import Measured, rank_correlations
from evals.pairs.predict import Sample, alike, predict, ranked
from evals.pairs.questions import final_answer, load
from evals.pairs.reading import answers, prompt_of, read
from evals.pairs.reading import load as load_model
from evals.pairs.timing import Timing
from evals.pairs.together import Asking, samples
from evals.pairs.vocabularies import stitchable
from evals.pairs.walk import Reading, Text, walk
from router_svc.text.matching import Kind
from router_svc.text.vocabularies import Vocabularies
from router_svc.trajectory.types import Model
from rstitch.errors import RstitchError
from tests.support.pairs import save_model

ROOT = Path(__file__).parents[2]
SLM, LLM = ROOT / "models" / "tiny-slm", ROOT / "models" / "tiny-llm"
SHORT, LONG = (1, 2, 3, 9), (11, 12, 13, 14, 15, 9)


def reading(tokens: Sequence[int], entropy: Sequence[float], writes: dict[int, tuple[int, ...]]) -> Reading:
    """One that agrees with the text but for the places in `writes`, where its likeliest tokens are those."""
    top = [[*writes.get(place, (token,)), *range(90, 95)][:5] for place, token in enumerate(tokens)]
    stands = [0.9 if row[0] == token else 0.05 for row, token in zip(top, tokens, strict=True)]
    return Reading(np.array(entropy, np.float32), np.array(top), np.array(stands, np.float32))


def text(
    tokens: Sequence[int],
    is_right: bool = True,
    slm: Sequence[float] | None = None,
    llm: Sequence[float] | None = None,
    slm_writes: dict[int, tuple[int, ...]] | None = None,
    llm_writes: dict[int, tuple[int, ...]] | None = None,
) -> Text:
    sure = [0.0] * len(tokens)
    by = reading(tokens, slm or sure, slm_writes or {}), reading(tokens, llm or sure, llm_writes or {})
    return Text(tokens, is_right, *by)


def test_above_every_entropy_the_slm_writes_alone() -> None:
    for is_right in (True, False):
        walked = walk(text(SHORT, is_right, slm=[0.9] * 4), text(LONG), tau=1.0)
        assert walked.runs == [("slm", 4, False)]
        assert walked.is_right == is_right
        assert walked.is_exact


def test_below_every_entropy_the_llm_writes_its_own_answer() -> None:
    own = text(SHORT, False, llm_writes={0: (11,)})
    walked = walk(own, text(LONG), tau=-1.0)
    assert walked.runs == [("slm", 0, True), ("llm", 6, False)]
    assert walked.is_right
    assert not walked.is_exact


def test_a_mistake_that_the_llm_mends_makes_the_answer_right() -> None:
    def own(entropy: float) -> Text:
        return text(SHORT, False, slm=[0, entropy, 0, 0], slm_writes={1: (2, 7)}, llm_writes={1: (7, 2)})

    mended = walk(own(0.3), text(LONG), tau=0.1)
    assert mended.runs == [("slm", 1, True), ("llm", 1, False), ("slm", 2, False)]
    assert mended.is_right
    assert not walk(own(0.3), text(LONG, is_right=False), tau=0.1).is_right
    missed = walk(own(0.05), text(LONG), tau=0.1)
    assert missed.runs == [("slm", 4, False)]
    assert not missed.is_right


def test_a_mistake_that_the_llm_does_not_see_stays() -> None:
    assert not walk(text(SHORT, False, slm=[0.5] * 4), text(LONG), tau=0.1).is_right


def test_an_llm_that_begins_its_own_way_is_followed_until_the_slm_begins_its_own() -> None:
    own = text(SHORT, slm=[0, 0.5, 0, 0], llm_writes={1: (13,)})
    others = text(LONG, slm_writes={4: (3,)})
    walked = walk(own, others, tau=0.1)
    # The SLM writes 1; the LLM 13, which goes on behind its 13; the SLM agrees on 14, then writes its own 3, then 9.
    assert walked.runs == [("slm", 1, True), ("llm", 1, False), ("slm", 3, False)]


@pytest.mark.parametrize("seed", range(30))
def test_every_walk_ends_and_counts_what_it_wrote(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def any_text(length: int) -> Text:
        def any_reading() -> Reading:
            return Reading(
                rng.random(length, np.float32), rng.integers(0, 8, (length, 3)), rng.random(length, np.float32)
            )

        return Text(rng.integers(0, 8, length).tolist(), bool(rng.integers(2)), any_reading(), any_reading())

    own, others = any_text(25), any_text(60)
    for tau in (-0.1, 0.1, 0.5, 0.9, 1.0):
        walked = walk(own, others, tau)
        assert 0 < walked.num_tokens <= len(own.tokens) + len(others.tokens)
        assert all(a[0] != b[0] for a, b in zip(walked.runs, walked.runs[1:], strict=False))
        assert all(discarded == (model == "slm") for model, _, discarded in walked.runs[:-1])


def test_an_exact_walk_is_algorithm_1() -> None:
    sides = stitchable(str(LLM), [str(SLM)])[str(SLM)].sides
    slm, llm = (
        load_model(str(path), sides[model], "cpu", torch.float32)
        for path, model in ((SLM, Model.SLM), (LLM, Model.LLM))
    )
    vocab_size = llm.vocab_size
    asked = load("tiny:dev", 7)
    prompts = [prompt_of(llm, question.text) for question in asked.questions]
    by_slm, by_llm = (answers(model, prompts, 120, lambda num: None) for model in (slm, llm))
    num_exact = num_handed_over = 0
    for prompt, own, theirs in zip(prompts, by_slm, by_llm, strict=True):
        texts = [Text(a, True, read(slm, prompt, a), read(llm, prompt, a)) for a in (own, theirs)]
        for tau in (0.02, 0.1):
            walked = walk(texts[0], texts[1], tau)
            if not walked.is_exact:
                continue
            oracles = (UncachedModel(each.model, vocab_size) for each in (slm, llm))
            answer = stitch(*oracles, prompt, Threshold(tau), max_new_tokens=120, stop_tokens=slm.ends)
            assert [token.id for token in answer.written] == own
            assert [token.model for token in answer.written] == [
                model for model, num, _ in walked.runs for _ in range(num)
            ]
            num_exact += 1
            num_handed_over += len(walked.runs) > 1
    assert num_exact >= 4
    assert num_handed_over >= 2


def flat(slm_ms: float, llm_ms: float) -> Timing:
    def model(ms: float) -> ModelLatency:
        return ModelLatency(Prefill(0, 0, 0, ms), Decode(0, ms))

    return Timing(LatencyModel(model(slm_ms), model(llm_ms)), None)


def test_the_fastest_threshold_that_keeps_the_accuracy_is_proposed() -> None:
    careless = text(SHORT, False, slm=[0, 0.3, 0, 0], slm_writes={1: (2, 7)}, llm_writes={1: (7, 2)})
    sample = Sample(5, careless, text(LONG))
    one = predict("one", 10, [sample], flat(1, 10), 0.0, taus=(0.01, 0.2, 0.5))
    assert one.tau in (0.01, 0.2)
    assert one.proposed.accuracy == 1.0
    assert one.proposed.speed_up == pytest.approx(60 / (2 + 10 + 2))
    loose = predict("loose", 10, [sample], flat(1, 10), 1.0, taus=(0.01, 0.2, 0.5))
    assert loose.tau == 0.5


def test_a_candidate_without_a_threshold_is_last_and_served_by_the_llm_alone() -> None:
    hopeless = predict("hopeless", 10, [Sample(5, text(SHORT, False), text(LONG))], flat(1, 10), 0.01)
    good = predict("good", 10, [Sample(5, text(SHORT), text(LONG))], flat(1, 10), 0.01)
    assert hopeless.tau is None
    assert (hopeless.proposed.llm_share, hopeless.proposed.speed_up) == (1.0, 1.0)
    assert [one.name for one in ranked([hopeless, good])] == ["good", "hopeless"]


def noisy(slm_ms: float, seed: int) -> Timing:
    """Rounds in which the SLM takes a third more or less."""
    rounds = [flat(slm_ms * factor, 10).latency for factor in np.random.default_rng(seed).uniform(0.7, 1.3, 15)]
    return replace(flat(slm_ms, 10), rounds=rounds)


def test_a_speed_up_has_an_interval_and_what_cannot_be_told_apart_is_said() -> None:
    samples = [Sample(5, text(SHORT), text(LONG)), Sample(5, text(SHORT), text(SHORT))]
    one, same, other = (
        predict(name, 1, samples, noisy(ms, seed), 0.0)
        for name, ms, seed in (("one", 2, 1), ("same", 2, 2), ("x", 6, 3))
    )
    for each in (one, same, other):
        assert each.speed_up_low < each.proposed.speed_up < each.speed_up_high
    (said,) = alike(ranked([one, same, other]))
    assert "one" in said
    assert "same" in said
    assert "cannot be told apart" in said
    assert alike(ranked([one, other])) == []


def test_rank_correlations_are_of_predicted_with_measured() -> None:
    fast = predict("fast", 1, [Sample(5, text(SHORT), text(LONG))], flat(1, 10), 0.0)
    slow = predict("slow", 1, [Sample(5, text(SHORT), text(LONG))], flat(5, 10), 0.0)
    seen = [Measured(10, 1, 1, 1, 1, 0.1, 1, 4, ms, 60, 1, 99) for ms in (6, 30)]
    found = rank_correlations([(fast, seen[0]), (slow, seen[1])])
    assert found == {"speed_up": {"kendall": pytest.approx(1.0), "spearman": pytest.approx(1.0)}}


def test_questions_come_from_a_domain_or_a_file(tmp_path: Path) -> None:
    programs = load("programs:dev", 2, 1)
    assert len(programs.questions) == 2
    assert programs.for_check[0].text not in {question.text for question in programs.questions}
    file = tmp_path / "asked.jsonl"
    file.write_text('{"question": "1+1?", "answer": "2"}\n\n{"question": "Why?"}\n')
    known, open_ = load(str(file), 2).questions
    assert known.is_right is not None
    assert known.is_right("So it is \\boxed{2}.")
    assert not known.is_right("It is 3.")
    assert open_.is_right is None


@pytest.mark.parametrize(
    ("written", "final"), [(r"\boxed{1} or \boxed{ 2 }", "2"), ("It costs $1,234.", "1234"), ("a\nyes", "yes")]
)
def test_what_a_text_ends_in(written: str, final: str) -> None:
    assert final_answer(written) == final


def test_what_cannot_be_asked_is_refused_by_name(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"question": "1"}\n{"text": "2"}\n')
    for data, words in (
        ("tiny:rest", "no split 'rest'"),
        ("tiny:test", "never tuned on"),
        (str(bad), "line 2"),
        (str(tmp_path / "none"), "No such file"),
    ):
        with pytest.raises(RstitchError, match=words):
            load(data, 1)
    bad.write_text('{"question": "1"}\n')
    with pytest.raises(RstitchError, match="1 questions, 2 are needed"):
        load(str(bad), 2)


def renumbered(model: Path, dest: Path, renamed: Sequence[str] = ()) -> list[int]:
    """Writes the model with its special tokens' ids moved on by one, some of them under other names; its new ids."""
    shutil.copytree(model, dest)
    file = json.loads((model / "tokenizer.json").read_text())
    special = [token["id"] for token in file["added_tokens"]]
    ids = list(range(file["added_tokens"][-1]["id"] + 1))
    for old, new in zip(special, [*special[1:], special[0]], strict=True):
        ids[old] = new
    entries = [*file["model"]["vocab"].items(), *((token["content"], token["id"]) for token in file["added_tokens"])]
    texts = {text: text.replace("<|", "<||") if text in renamed else text for text, _ in entries}
    file["model"]["vocab"] = {texts[text]: ids[old] for text, old in entries}
    file["added_tokens"] = sorted(
        (token | {"id": ids[token["id"]], "content": texts[token["content"]]} for token in file["added_tokens"]),
        key=lambda token: int(token["id"]),
    )
    (dest / "tokenizer.json").write_text(json.dumps(file))
    template, config = dest / "chat_template.jinja", json.loads((dest / "tokenizer_config.json").read_text())
    if renamed:
        template.write_text(
            template.read_text().replace("'<|' ~ m", "'<||' ~ m").replace("<|assistant|>", "<||assistant|>")
        )
    config["extra_special_tokens"] = [texts[text] for text in config["extra_special_tokens"]]
    (dest / "tokenizer_config.json").write_text(json.dumps(config))
    weights = AutoModelForCausalLM.from_pretrained(model)
    rows = weights.get_input_embeddings().weight.data
    rows[ids] = rows.clone()[: len(ids)]
    for each in (weights.config, weights.generation_config):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(each, name, ids[getattr(each, name)])
    weights.save_pretrained(dest)
    return ids


def sampled(slm: Path, llm: Path) -> tuple[list[Sample], Vocabularies]:
    both = stitchable(str(llm), [str(slm)])[str(slm)]
    loaded = [
        load_model(str(path), both.sides[model], "cpu", torch.float32)
        for path, model in ((slm, Model.SLM), (llm, Model.LLM))
    ]
    asking = Asking(load("tiny:dev", 3).questions, 60, lambda name, num: None, lambda: None)
    return samples(loaded[0], loaded[1], both, asking, {}), both


def close(one: Reading, other: Reading, ids: Sequence[int]) -> None:
    assert np.array(ids)[one.top].tolist() == other.top.tolist()
    np.testing.assert_allclose(one.entropy, other.entropy, atol=1e-5)
    np.testing.assert_allclose(one.probability, other.probability, atol=1e-5)


def test_what_is_said_of_a_pair_does_not_depend_on_its_ids(tmp_path: Path) -> None:
    ids = renumbered(LLM, tmp_path / "llm")
    plain, same = sampled(SLM, LLM)
    mapped, both = sampled(SLM, tmp_path / "llm")
    assert (same.matching.kind, both.matching.kind) == (Kind.SAME, Kind.RENUMBERED)
    for one, other in zip(plain, mapped, strict=True):
        for name in ("slm", "llm"):
            ours, theirs = getattr(one, name), getattr(other, name)
            assert [ids[token] for token in ours.tokens] == list(theirs.tokens)
            assert ours.is_right == theirs.is_right
            close(ours.slm, theirs.slm, ids)
            close(ours.llm, theirs.llm, ids)
    assert any(sample.slm.tokens[-1] == ids[2] for sample in mapped)  # ended by the end, as the LLM has it


def test_tokens_that_are_masked_in_a_pair_are_no_part_of_the_entropies(tmp_path: Path) -> None:
    markers = ("<|system|>", "<|user|>", "<|assistant|>")
    renumbered(LLM, tmp_path / "llm", markers)
    plain, _ = sampled(SLM, LLM)
    mapped, both = sampled(SLM, tmp_path / "llm")
    tokenizer = both.tokenizer(Model.SLM)
    assert [tokenizer.spelling(token) for token in both.matching.masked[Model.SLM]] == list(markers)
    # The prompts are each model's own, so the same is written; three tokens that nobody writes weigh in the logarithm.
    for one, other in zip(plain, mapped, strict=True):
        assert len(one.slm.tokens) == len(other.slm.tokens)
        more = math.log(634) / math.log(631)
        np.testing.assert_allclose(one.slm.slm.entropy * more, other.slm.slm.entropy, atol=1e-4)


def test_a_candidate_that_shares_no_vocabulary_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger = save_model(tmp_path / "stranger", "llama", 1)
    assert main(["--llm", str(LLM), "--slm", str(SLM), "--slm", str(stranger)]) == 2
    told = capsys.readouterr().err.replace("\n", "")
    assert "stranger and" in told
    assert "share no vocabulary" in told
    assert "Leave it out" in told


@pytest.mark.soak  # the walks and the table are tested above, one by one
@pytest.mark.timeout(180)  # a stack of its own
def test_predicted_and_measured_stand_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pairs.json"
    arguments = ["--llm", str(LLM), "--slm", str(SLM), "--n", "3", "--check", "--check-n", "1", "--json", str(out)]
    assert main([*arguments, "--plot", str(tmp_path / "pairs.png")]) == 0
    assert "Predicted / measured" in capsys.readouterr().out
    (found,) = json.loads(out.read_text())["candidates"]
    assert found["tau"] is not None
    assert found["measured"]["n"] == 1
    assert found["measured"]["llm_share"] < 0.5
    assert (tmp_path / "pairs.png").stat().st_size > 10_000
