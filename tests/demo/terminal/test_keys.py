# SPDX-License-Identifier: MIT
"""Bytes of a terminal, made keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.demo.terminal.keys import Key, Keys, Pressed


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"n1 ", ["n", "1", " "]),
        (b"\r\n", [Key.ENTER, Key.ENTER]),
        (b"\x7f\x08\x15", [Key.BACKSPACE, Key.BACKSPACE, Key.DELETE_LINE]),
        (b"\x0c\x04", [Key.REDRAW, Key.END]),
        (b"\x1b[C\x1b[D\x1bOA\x1b[B", [Key.FORWARD, Key.BACK, Key.UP, Key.DOWN]),
        (b"\x1b[5~\x1b[6~", [Key.PAGE_UP, Key.PAGE_DOWN]),
        (b"\x1b", [Key.ESCAPE]),
        (b"\x1bq", [Key.ESCAPE, "q"]),
        (b"\x1b[1;5C\x1b[200~x\x1b[201~", ["x"]),
        ("ä€".encode(), ["ä", "€"]),
        (b"\x00\x01\x07", []),
        (b"\xff", ["\ufffd"]),
    ],
)  # fmt: skip
def test_keys(data: bytes, keys: list[Pressed]) -> None:
    assert Keys().feed(data) == keys


def test_a_sequence_that_comes_in_pieces() -> None:
    keys = Keys()
    assert keys.feed(b"\x1b[") == []
    assert keys.feed(b"6") == []
    assert keys.feed(b"~n\xc3") == [Key.PAGE_DOWN, "n"]
    assert keys.feed(b"\xa4") == ["ä"]


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_any_bytes_are_keys_that_can_be_shown(pieces: list[bytes]) -> None:
    keys = Keys()
    for piece in pieces:
        for key in keys.feed(piece):
            assert isinstance(key, Key) or (len(key) == 1 and key.isprintable())


@given(st.binary(max_size=60))
def test_nothing_typed_later_is_swallowed(data: bytes) -> None:
    keys = Keys()
    keys.feed(data)
    typed = keys.feed(b"~" * 40)
    assert typed[-1] == "~"
