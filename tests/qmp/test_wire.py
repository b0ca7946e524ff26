# SPDX-License-Identifier: MIT
"""The QMP wire: values out of a stream, whatever the pieces; errors, and where reading goes on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyvmm.qmp.wire import (
    MESSAGE_LIMIT,
    NESTING_LIMIT,
    TOKEN_LIMIT,
    Broken,
    Decoder,
    Value,
    encode,
)
from tests.qmp.streams import CHARACTERS, STREAMS, No

AFTER = b'{"after": 1}\n'


def decode(data: bytes, step: int | None = None) -> list[Value | Broken]:
    decoder = Decoder()
    found: list[Value | Broken] = []
    step = step or max(len(data), 1)
    for start in range(0, len(data), step):
        decoder.feed(data[start : start + step])
        while (one := decoder.next()) is not None:
            found.append(one)
    return found


def values(data: bytes, step: int | None = None) -> list[Any]:
    found = decode(data, step)
    assert all(isinstance(one, Value) for one in found), found
    return [one.value for one in found if isinstance(one, Value)]


@pytest.mark.parametrize("step", [None, 1, 3])
@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b'{"execute": "stop"}\n', [{"execute": "stop"}]),
        (b'{"execute": "stop"}', [{"execute": "stop"}]),
        (b'{"a":1}{"b":2}[3]', [{"a": 1}, {"b": 2}, [3]]),
        (b'{"a":\n[1,\r\n\t2]\n}\n', [{"a": [1, 2]}]),
        (b" \r\n\t \n", []),
        (b'17 "b" true\nnull\n', [17, "b", True, None]),
        (b'"a\\"b{"{"c":"\\\\"}', ['a"b{', {"c": "\\"}]),
        (b'{"brackets": "}]{["}\n', [{"brackets": "}]{["}]),
        (b'{"id":"\\u0000\\ud83d\\ude00"}', [{"id": "\0\U0001f600"}]),
        ("{'id'}".replace("'", '"').replace("id", 'ü": "€').encode(), [{"ü": "€"}]),
        (b'{"i": [-0, 18446744073709551615, -9223372036854775808]}',
         [{"i": [0, (1 << 64) - 1, -(1 << 63)]}]),
        (b'{"i": 18446744073709551616}', [{"i": float(1 << 64)}]),
        (b"[" * NESTING_LIMIT + b"]" * NESTING_LIMIT, None),
        (b'{"not": "complete"', []),
        (b"17", []),
    ],
)  # fmt: skip
def test_values_come_out_of_a_stream(
    stream: bytes, expected: list[Any] | None, step: int | None
) -> None:
    assert values(stream, step) == ([json.loads(stream)] if expected is None else expected)


def test_an_integer_that_does_not_fit_64_bits_is_a_double_as_in_qemu() -> None:
    (found,) = values(b"[18446744073709551615, 18446744073709551616, -9223372036854775809]")
    assert [type(number) for number in found] == [int, float, float]


@pytest.mark.parametrize("step", [None, 1, 3])
@pytest.mark.parametrize(("stream", "expected"), STREAMS)
def test_what_is_no_json_and_where_reading_goes_on(
    stream: bytes, expected: list[Any], step: int | None
) -> None:
    """What QEMU makes of each is in test_as_qemu.py."""
    wanted = [
        Broken(f"JSON parse error, {one.reason}") if isinstance(one, No) else Value(one)
        for one in expected
    ]
    assert decode(stream + AFTER, step) == [*wanted, Value({"after": 1})]


@pytest.mark.parametrize("step", [None, 7])
@pytest.mark.parametrize("end", [b"\n", b"\r"])
@pytest.mark.parametrize(
    ("value", "limit"),
    [
        (b"[" * (NESTING_LIMIT + 1) + b"]" * (NESTING_LIMIT + 1), "nesting depth"),
        (b'{"a": ' + b"[" * NESTING_LIMIT + b"]" * NESTING_LIMIT + b"}", "nesting depth"),
        (b'{"a": ' * 10_000, "nesting depth"),
        (b"[" * 2000 + b'"}]\\""', "nesting depth"),
        pytest.param(
            b"[" + b"1," * TOKEN_LIMIT + b'{"execute": "quit"}]',
            "token count",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_value_beyond_a_limit_is_one_error(
    value: bytes, limit: str, end: bytes, step: int | None
) -> None:
    """Nothing that is inside of it is taken for a command, whether it ends or its line does."""
    refused = Broken(f"JSON {limit} limit exceeded")
    assert decode(value + end + AFTER, step) == [refused, Value({"after": 1})]


def test_what_follows_a_value_beyond_a_limit_needs_no_new_line() -> None:
    deep = b"[" * 2000 + b"]" * 2000
    refused = Broken("JSON nesting depth limit exceeded")
    assert decode(deep + b'{"b": 1}' + deep + AFTER) == [
        refused, Value({"b": 1}), refused, Value({"after": 1}),
    ]  # fmt: skip


def test_a_description_is_no_longer_than_qemus() -> None:
    (found, *_) = decode(b"x" * 5000 + b" ")
    assert found == Broken("JSON parse error, invalid keyword '" + "x" * 1006)


@pytest.mark.parametrize("depth", [NESTING_LIMIT, 2000])
def test_a_deep_object_alone_in_its_line(depth: int) -> None:
    found = decode(b'{"a":' + b"[" * depth + b"]" * depth + b"}\n")
    assert found == [Broken("JSON nesting depth limit exceeded")]


def test_a_string_does_not_run_over_a_line() -> None:
    found = decode(b'{"open": "\n' + AFTER)
    assert [type(one) for one in found] == [Broken, Value]


@pytest.mark.parametrize("beginning", [b'{"a": "', b'{"a": ', b'"', b"", b"{", b'{"a\\'])
@pytest.mark.parametrize("filling", [b"a", b"1", b" ", b"\\\\"])
def test_what_is_kept_is_bounded(beginning: bytes, filling: bytes) -> None:
    decoder = Decoder()
    decoder.feed(beginning)
    errors = 0
    piece = filling * ((1 << 16) // len(filling))
    for _ in range(160):
        decoder.feed(piece)
        while (one := decoder.next()) is not None:
            assert isinstance(one, Broken)
            errors += 1
        assert decoder.kept <= MESSAGE_LIMIT + len(piece)
    assert errors <= 1
    decoder.feed(b'"\n' + AFTER if beginning == b'"' and not errors else b"\n" + AFTER)
    found = []
    while (one := decoder.next()) is not None:
        found.append(one)
    if filling == b" " and not errors:
        assert beginning in (b"", b"{", b'{"a": ')
    else:
        assert found[-1] == Value({"after": 1})


@pytest.mark.slow
def test_the_longest_message_is_taken_and_a_byte_more_is_not() -> None:
    longest = b'{"a":"' + b"x" * (MESSAGE_LIMIT - 8) + b'"}'
    assert len(longest) == MESSAGE_LIMIT
    assert len(values(longest + b"\n" + AFTER)) == 2
    found = decode(b" " + longest[:-2] + b'x"}\n' + AFTER)
    assert found == [Broken("JSON token size limit exceeded"), Value({"after": 1})]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(CHARACTERS),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(CHARACTERS), inner, max_size=4)
    ),
    max_leaves=12,
)
CONTAINERS = st.lists(JSON, max_size=4) | st.dictionaries(st.text(CHARACTERS), JSON, max_size=4)


@given(st.lists(CONTAINERS, max_size=4), st.integers(1, 40), st.sampled_from(["", "\n", " \r\n"]))
def test_any_values_in_any_pieces(sent: list[Any], step: int, between: str) -> None:
    stream = b"".join((json.dumps(one) + between).encode() for one in sent)
    assert values(stream, step) == sent
    plain = b"".join((json.dumps(one, ensure_ascii=False) + between).encode() for one in sent)
    assert values(plain, step) == sent


@given(CONTAINERS)
def test_what_is_sent_is_one_line_of_ascii(value: Any) -> None:
    line = encode(value)
    assert line.endswith(b"\r\n")
    assert b"\n" not in line[:-1]
    assert line.isascii()
    assert json.loads(line) == value


TOKENS = [*(bytes((c,)) for c in b'{}[]:,"\\\n 1-e.\xff\xc3\x00t'), b'"a"', b"null", b"\\u"]
BYTES = st.binary(max_size=200) | st.lists(st.sampled_from(TOKENS), max_size=60).map(b"".join)


@pytest.mark.slow
@settings(max_examples=300)
@given(BYTES, st.integers(1, 9))
@example(b'{"\\', 1)
@example(b'"\\\n', 1)
@example(b'{"\n\xff{', 2)
def test_any_bytes_in_any_pieces_mean_the_same_and_a_newline_or_two_later_all_is_well(
    data: bytes, step: int
) -> None:
    assert decode(data, step) == decode(data)
    # Ends a value that is open, or the line that is dropped, whatever it was.
    found = decode(data + b'\xff\n"\n' + AFTER)
    assert found[-1] == Value({"after": 1})
