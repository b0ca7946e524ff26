# SPDX-License-Identifier: MIT
"""Text that came from elsewhere, as every writer shows it."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.visible import visible


@given(st.text(st.characters(exclude_categories=())))
def test_it_can_be_written_anywhere_and_moves_nothing(text: str) -> None:
    shown = visible(text)
    assert shown.isprintable()
    assert shown.encode().decode() == shown
    # What needs no change gets none.
    assert (shown == text) == text.isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (os.fsdecode(b"n\xff\x80.img"), "n\\xff\\x80.img"),
        ("red \x1b[31m", "red \\x1b[31m"),
        ("a\u200bb", "a\\u200bb"),
        ("\U000e0001", "\\U000e0001"),
        ("\ud800", "\\ud800"),
        ("gr\xfc\xdfe", "gr\xfc\xdfe"),
    ],
)
def test_what_is_not_printable_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_some_letters_may_stay() -> None:
    assert visible("a\tb\nc\r", keep="\t\n") == "a\tb\nc\\x0d"
