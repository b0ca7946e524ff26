# SPDX-License-Identifier: MIT
"""What a guest prints of its machine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.compare.inventory import CpuidLine, MemoryLine, changed_lines, console_lines, taken_apart


def test_lines_are_taken_out_of_the_text() -> None:
    found, rest = taken_apart(
        b"hello\n"
        b"memory 0000000000-000009fc00 usable\n"
        b"memory 00000d0000-00000f0000 type 4\n"
        b"cpuid 80000008.1 00003028 00000000 0000000a ffffffff\n"
        b"bye\n"
    )
    assert found.memory == (
        MemoryLine(0, 0x9FC00, "usable"),
        MemoryLine(0xD0000, 0xF0000, "type 4"),
    )
    assert found.cpuid == (CpuidLine(0x80000008, 1, (0x3028, 0, 10, 0xFFFFFFFF)),)
    assert rest == ("hello", "bye", "")


def test_what_is_nearly_such_a_line_stays() -> None:
    text = (
        b" memory 0000000000-000009fc00 usable\n"
        b"memory 0000000000-000009fc00 strange\n"
        b"memory 0000000000-000009fc00 usable\r\n"
        b"cpuid 1.0 1 2 3 4\n"
    )
    found, rest = taken_apart(text)
    assert (found.memory, found.cpuid) == ((), ())
    assert "\n".join(rest).encode() == text


@given(st.binary(max_size=300))
def test_any_bytes_can_be_taken_apart(text: bytes) -> None:
    found, rest = taken_apart(text)
    assert len(found.memory) + len(found.cpuid) + len(rest) == text.count(b"\n") + 1


MEMORY = b"memory 0000000000-000009fc00 usable"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (b"", 0),
        (b"one\n", 1),
        (b"one\n" + MEMORY + b"\ntwo\n", 2),
        (MEMORY, 0),
        (b"one\n" + MEMORY, 1),
    ],
)
def test_lines_of_the_console_are_those_that_end_and_are_no_inventory(
    text: bytes, lines: int
) -> None:
    assert console_lines(text) == lines


LINES = st.builds(
    MemoryLine, st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.sampled_from(["usable", "x"])
)


@given(st.lists(LINES, max_size=8), st.lists(LINES, max_size=8))
def test_changes_lead_from_one_to_the_other(
    ours: list[MemoryLine], theirs: list[MemoryLine]
) -> None:
    changed = changed_lines(ours, theirs)
    gone = {line[2:] for line in changed if line.startswith("- ")}
    new = {line[2:] for line in changed if line.startswith("+ ")}
    assert len(gone) + len(new) == len(changed)
    assert ({str(line) for line in ours} - gone) | new == {str(line) for line in theirs}
    starts = [int(line[2:].split("-")[0], 16) for line in changed]
    assert starts == sorted(starts)
