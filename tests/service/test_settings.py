"""Old names of settings work, hidden, for one release."""

from __future__ import annotations

from rstitch.service.settings import with_new_names


def test_old_flags_and_variables_are_read_under_their_new_names_and_told() -> None:
    environment = {"RSTITCH_OLD_NAME": "variable", "RSTITCH_OTHER": "kept"}
    arguments, told = with_new_names(
        {"old-name": "new-name"}, ["--old-name", "a", "--old-name=b", "--other", "--old-names"], environment
    )
    assert arguments == ["--new-name", "a", "--new-name=b", "--other", "--old-names"]
    assert environment == {"RSTITCH_NEW_NAME": "variable", "RSTITCH_OTHER": "kept"}
    assert [sentence.split(" is now ")[0] for sentence in told] == ["--old-name", "--old-name", "RSTITCH_OLD_NAME"]


def test_a_new_name_wins_over_an_old_one() -> None:
    environment = {"RSTITCH_OLD_NAME": "old", "RSTITCH_NEW_NAME": "new"}
    with_new_names({"old-name": "new-name"}, [], environment)
    assert environment == {"RSTITCH_NEW_NAME": "new"}
