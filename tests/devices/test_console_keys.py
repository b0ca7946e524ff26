# SPDX-License-Identifier: MIT
"""The console's escape keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.devices.console_keys import ConsoleInput, EscapeKeys, KeyAction


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", []),
        (b"ls\r", [b"ls\r"]),
        (b"\x01x", [KeyAction.QUIT]),
        (b"\x01c", [KeyAction.TOGGLE_MONITOR]),
        (b"\x01h", [KeyAction.HELP]),
        (b"\x01?", [KeyAction.HELP]),
        (b"\x01\x01", [b"\x01"]),
        (b"\x01a", [b"\x01"]),
        (b"a\x01ab", [b"a\x01b"]),
        (b"a\x01zb", [b"ab"]),
        (b"\x01X", []),
        (b"\x01", []),
        (b"xch?a", [b"xch?a"]),
        (b"a\x01cb\x01xd", [b"a", KeyAction.TOGGLE_MONITOR, b"b", KeyAction.QUIT, b"d"]),
        (b"\x01\x01x", [b"\x01x"]),
        (b"\x01\x01\x01x", [b"\x01", KeyAction.QUIT]),
    ],
)
def test_feed(data: bytes, found: list[ConsoleInput]) -> None:
    assert EscapeKeys().feed(data) == found


def joined(items: list[ConsoleInput]) -> list[ConsoleInput]:
    out: list[ConsoleInput] = []
    for item in items:
        if isinstance(item, bytes) and out and isinstance(out[-1], bytes):
            out[-1] += item
        else:
            out.append(item)
    return out


# Mostly keys that mean something.
keystrokes = st.lists(st.sampled_from(b"\x01\x01\x01xch?abz\x00\xff"), max_size=40).map(bytes)


@given(keystrokes, st.lists(st.integers(0, 40)))
def test_chunks_do_not_matter(data: bytes, cuts: list[int]) -> None:
    whole = EscapeKeys().feed(data)
    keys = EscapeKeys()
    pieces: list[ConsoleInput] = []
    at = 0
    for cut in [*sorted(cuts), len(data)]:
        pieces += keys.feed(data[at:cut])
        at = max(at, cut)
    assert b"" not in pieces
    assert joined(pieces) == whole


@given(st.binary())
def test_everything_can_be_sent(data: bytes) -> None:
    found = EscapeKeys().feed(data.replace(b"\x01", b"\x01\x01"))
    assert found == ([data] if data else [])
