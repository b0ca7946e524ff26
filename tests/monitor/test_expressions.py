# SPDX-License-Identifier: MIT
"""What a monitor's arguments mean; nothing that is typed raises anything but `LineError`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.machine.monitor.expressions import Base, Format, LineError, evaluate, take_format

REGISTERS = {"rip": 0x100438, "rax": 8, "eflags": 2}
MASK = (1 << 64) - 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("0x10", 16),
        ("0XfF", 255),
        ("010", 8),
        ("42", 42),
        (" 1 + 2 * 3 ", 7),
        ("(1+2)*3", 9),
        ("10-3-2", 5),
        ("7/2", 3),
        ("7%4", 3),
        ("-1", MASK),
        ("~0", MASK),
        ("+-~1", 2),
        ("0xffffffffffffffff+1", 0),
        ("0xffffffffffffffff*2", MASK - 1),
        ("0-1", MASK),
        # As in QEMU: the logical ones bind more than the sum, and less than the product.
        ("1+6&3", 3),
        ("1|2*4", 9),
        ("6^3", 5),
        ("$rip", 0x100438),
        ("$rip + $rax*2", 0x100448),
        ("((((1))))", 1),
    ],
)
def test_values(text: str, value: int) -> None:
    assert evaluate(text, REGISTERS) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unexpected end of expression"),
        ("1+", "unexpected end of expression"),
        ("(1", r"'\)' expected"),
        ("foo", "invalid char 'f' in expression"),
        ("1/0", "division by zero"),
        ("1%0", "division by zero"),
        ("$foo", "unknown register"),
        ("$", "unknown register"),
        ("1 2", "extraneous characters"),
        ("089", "invalid number"),
        ("0x10000000000000000", "number too large"),
        ("9" * 5000, "number too large"),
        ("(" * 1000, "nested too deeply"),
        ("-" * 1000, "nested too deeply"),
    ],
)
def test_what_means_nothing(text: str, message: str) -> None:
    with pytest.raises(LineError, match=message):
        evaluate(text, REGISTERS)


@given(st.text(alphabet="0123456789abcfx$ripeax+-*/%&|^~() ", max_size=60))
def test_any_text_is_a_number_or_an_error(text: str) -> None:
    try:
        value = evaluate(text, REGISTERS)
    except LineError as error:
        assert str(error)
    else:
        assert 0 <= value <= MASK


@given(st.integers(0, MASK), st.integers(0, MASK), st.sampled_from("+-*&|^"))
def test_arithmetic_is_that_of_64_bits(first: int, second: int, operator: str) -> None:
    expected = {
        "+": first + second, "-": first - second, "*": first * second,
        "&": first & second, "|": first | second, "^": first ^ second,
    }[operator]  # fmt: skip
    assert evaluate(f"{first:#x} {operator} {second}", {}) == expected & MASK


@pytest.mark.parametrize(
    ("text", "format_", "rest"),
    [
        ("0x10", Format(), "0x10"),
        ("/4xw 0x10", Format(4, Base.HEXADECIMAL, 4), " 0x10"),
        (" /3dg $rip", Format(3, Base.SIGNED, 8), " $rip"),
        ("/c 1", Format(1, Base.CHARACTER, 4), " 1"),
        ("/2 1", Format(2), " 1"),
        ("/xbw 1", Format(1, Base.HEXADECIMAL, 4), " 1"),
        ("/5oh", Format(5, Base.OCTAL, 2), ""),
        ("/0ub 1", Format(0, Base.UNSIGNED, 1), " 1"),
        ("/ 1", Format(), " 1"),
    ],
)
def test_formats(text: str, format_: Format, rest: str) -> None:
    assert take_format(text) == (format_, rest)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/4z 0", "invalid char in format: 'z'"),
        ("/4x4 0", "invalid char in format: '4'"),
        ("/4i 0", "there is no disassembler"),
        (f"/{'9' * 5000}x 0", "number too large"),
    ],
)
def test_formats_that_mean_nothing(text: str, message: str) -> None:
    with pytest.raises(LineError, match=message):
        take_format(text)
