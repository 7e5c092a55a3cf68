"""Studies of heads, as they are called: by the commands that the documents name."""

from __future__ import annotations

import pytest

from training.head.studies import blame, cost, paper_cost


def test_what_a_consultation_of_the_bundled_head_costs_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert cost.main(["--calls", "20"]) == 0
    assert "us a consultation" in capsys.readouterr().out


def test_a_head_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cost.main(["none.safetensors"]) == 2
    assert "none.safetensors" in capsys.readouterr().err


def test_what_the_papers_pairs_would_cost_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert paper_cost.main([]) == 0
    assert "QwQ-32B" in capsys.readouterr().out


def test_who_is_to_blame_is_told_for_each_threshold(capsys: pytest.CaptureFixture[str]) -> None:
    assert blame.main(["--task", "tiny", "--taus", "0.005", "0.02", "--n", "2"]) == 0
    told = capsys.readouterr().out
    assert "tau=0.005" in told
    assert "tau=0.02" in told
    assert blame.main(["--task", "huge"]) == 2
    assert "'--task': 'huge' is none of tiny, programs" in capsys.readouterr().err
