# SPDX-License-Identifier: MIT
"""The QMP wire: values out of a stream, whatever the pieces; one error for one broken line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyvmm.qmp.wire import MESSAGE_LIMIT, NESTING_LIMIT, Broken, Decoder, Value, encode

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


@pytest.mark.parametrize("step", [None, 1])
@pytest.mark.parametrize(
    ("line", "part"),
    [
        (b"garbage", "expecting value"),
        (b"# comment", "stray '#'"),
        (b"}", "expecting value"),
        (b", : ]", "expecting value"),
        (b"'single'", "stray '''"),
        (b'{"a": 1,}', "expecting property name"),
        (b'{"a" "b"}', "expecting ':' delimiter"),
        (b'{"a": 1], "b": {"c": 2}}', "brackets do not match"),
        (b'{"a": %d, "b": {"c": 2}}', "stray '%'"),
        (b'{"a": 1, "a": 2}', "duplicate key"),
        (b'{"a": {"b": 1, "b": 2}}', "duplicate key"),
        (b'{"a": "\xff\xfe"}', "not UTF-8"),
        (b'{"a": "\xc3\x28"}', "not UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8"),
        (b'{"a": "\\ud800"}', "\\ud800 is not a valid Unicode character"),
        (b'{"\\uDFFF": 1}', "\\udfff is not a valid Unicode character"),
        (b'{"a": "\\x"}', "escape"),
        (b'{"a": 1e400}', "out of range"),
        (b'{"a": ' + b"9" * 5000 + b"}", "out of range"),
        (b'{"a": NaN}', "invalid keyword 'NaN'"),
        (b'{"a": -Infinity}', "invalid keyword '-Infinity'"),
        (b'{"a": 01}', "expecting"),
        (b'{"a": tru}', "expecting value"),
        (b'{"a": "tab\there, {"}', "control character"),
        (b"\xef\xbb\xbf{}", "stray"),
        (b"[" * (NESTING_LIMIT + 1) + b"]" * (NESTING_LIMIT + 1), "nesting depth limit"),
        (b'{"a": ' + b"[" * NESTING_LIMIT + b"]" * NESTING_LIMIT + b"}", "nesting depth limit"),
        (b'{"a": ' * 100_000, "nesting depth limit"),
    ],
)  # fmt: skip
def test_a_broken_line_is_one_error_and_the_next_line_is_read(
    line: bytes, part: str, step: int | None
) -> None:
    found = decode(line + b"\n" + AFTER, step)
    assert len(found) == 2
    assert isinstance(found[0], Broken)
    assert part in found[0].description
    assert found[0].description.startswith("JSON ")
    assert found[1] == Value({"after": 1})


@pytest.mark.parametrize("depth", [NESTING_LIMIT, 2000])
def test_a_deep_object_alone_in_its_line(depth: int) -> None:
    found = decode(b'{"a":' + b"[" * depth + b"]" * depth + b"}\n")
    assert found == [Broken("JSON nesting depth limit exceeded")]


def test_0xff_gets_rid_of_half_a_value() -> None:
    # What clients of QEMU's guest agent do; no newline is needed.
    found = decode(b'{"half": [\xff{"b": 1}\xff\xff{"c": 1}')
    assert found == [
        Broken("JSON parse error, stray '\ufffd'"),
        Value({"b": 1}),
        Broken("JSON parse error, stray '\ufffd'"),
        Value({"c": 1}),
    ]
    assert decode(b"\xff" * 1000 + AFTER) == [found[0], Value({"after": 1})]
    decoder = Decoder()
    for piece, expected in ((b"\xff", found[0]), (b'{"b": 1}\n', found[1]), (b"\xff", found[2])):
        decoder.feed(piece)
        assert (decoder.next(), decoder.next()) == (expected, None)


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
        assert beginning in (b"", b"{")
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
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
CONTAINERS = st.lists(JSON, max_size=4) | st.dictionaries(st.text(), JSON, max_size=4)


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
    assert values(line) == [value]


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
