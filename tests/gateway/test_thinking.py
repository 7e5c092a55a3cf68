"""The thinking is parted from what is said, however the text is cut."""

from __future__ import annotations

import random

import pytest

from gateway.openai.thinking import Marks, Parted, Piece

CASES = [
    ("plain text", False, Piece("", "plain text")),
    ("<think>why</think>so", False, Piece("why", "so")),
    ("  \n<think>\nwhy\n</think>\n\nso", False, Piece("why\n", "so")),
    ("why</think>so", True, Piece("why", "so")),
    ("<think>why</think>so", True, Piece("why", "so")),
    ("why", True, Piece("why", "")),
    ("<think>cut short", False, Piece("cut short", "")),
    ("<think>a < b </thin k</think>c</think>d", False, Piece("a < b </thin k", "c</think>d")),
    ("a <think>b</think>", False, Piece("", "a <think>b</think>")),
    ("<thin", False, Piece("", "<thin")),
    ("", False, Piece("", "")),
    ("   ", False, Piece("", "   ")),
    ("<think></think>", False, Piece("", "")),
]


@pytest.mark.parametrize(("text", "is_open", "expected"), CASES)
def test_cuts_change_nothing(text: str, is_open: bool, expected: Piece) -> None:
    dice = random.Random(text)
    for _ in range(40):
        parted, at = Parted(Marks(), is_open=is_open), 0
        pieces = []
        while at < len(text):
            num = dice.randrange(1, 5)
            pieces.append(parted.feed(text[at : at + num]))
            at += num
        pieces.append(parted.end())
        assert Piece(*("".join(parts) for parts in zip(*pieces, strict=True))) == expected
