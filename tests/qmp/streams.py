# SPDX-License-Identifier: MIT
"""QMP input that is no JSON, or JSON only for QEMU, and what is to come out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

CHARACTERS = st.characters(blacklist_categories=("Cs", "Cn"))
"""Those that QEMU takes: no surrogates, no noncharacters."""


@dataclass(frozen=True)
class No:
    """What is refused; `reason` is how "JSON parse error, " goes on."""

    reason: str


EXPECTING = No("expecting value")
REPLACED = "\ufffd"
UTF8 = No("invalid UTF-8 sequence in string")
ESCAPE = No("invalid escape sequence in string")
DICT = No("expected separator in dict")
LIST = No("expected separator in list")


def stray(text: str) -> No:
    """No token."""
    return No(f"stray '{text}'")


def character(text: str) -> No:
    """An escape that stands for no character."""
    return No(f"{text} is not a valid Unicode character")


STREAMS: list[tuple[bytes, list[Any]]] = [
    # Strings in single quotes, which only QEMU takes.
    (b"{'execute': 'query-name'}", [{"execute": "query-name"}]),
    (b"{'execute': 'query-name'}\r{'a': \"b\"}", [{"execute": "query-name"}, {"a": "b"}]),
    (b"['\"', \"'\", '\\'', \"\\'\", '\\\"', '\\/\\b\\f\\n\\r\\t\\\\']",
     [['"', "'", "'", "'", '"', "/\b\f\n\r\t\\"]]),
    (b"'text'", ["text"]),
    (b"'x\": 1}'", ['x": 1}']),
    # Words, numbers.
    (b"garbage\r", [No("invalid keyword 'garbage'")]),
    (b"garbage", [No("invalid keyword 'garbage'")]),
    (b'garbage"x"', [No("invalid keyword 'garbage'"), "x"]),
    (b'{"a": tru}', [No("invalid keyword 'tru'")]),
    (b"truex nul ", [No("invalid keyword 'truex'"), No("invalid keyword 'nul'")]),
    (b"True", [stray("T")]),
    (b'{"a": NaN}', [stray("N"), EXPECTING]),
    (b'{"a": -Infinity}', [stray("-I"), EXPECTING]),
    (b'{"a": 01}', [stray("01"), EXPECTING]),
    (b"[0.]", [stray("0.]"), ]),
    (b"[1.5e, 2]", [stray("1.5e,"), EXPECTING]),
    (b"[0e5]", [LIST]),
    (b"[+1]", [stray("+"), EXPECTING]),
    (b"-0 1 2.50e1 ", [0, 1, 25.0]),
    (b"1{2}", [1, No("key is not a string in object")]),
    # Bytes that begin nothing, and where reading goes on after them.
    (b"# comment", [stray("#")]),
    (b"# comment, ", [stray("#"), EXPECTING]),
    (b"#\t'x' {}", [stray("#"), {}]),
    (b"%d", [stray("%")]),
    (b'{"a": %d, "b": {"c": 2}}\n',
     [stray("%"), EXPECTING, "b", EXPECTING, {"c": 2}, EXPECTING]),
    (b"\xef\xbb\xbf{}", [stray(REPLACED), {}]),
    (b"\xc3\xa9\xff", [stray(REPLACED), stray(REPLACED)]),
    (b"\0\x01", [stray(""), stray("\x01")]),
    (b'{\0{"b": 1}', [stray(""), {"b": 1}]),
    (b'{"half": [\xff{"b": 1}\xff\xfe\xff{"c": 1}',
     [stray(REPLACED), {"b": 1}, *[stray(REPLACED)] * 3, {"c": 1}]),
    (b'"\xff', [stray('"' + REPLACED)]),
    (b'{"open": "\n', [stray('"\n')]),
    (b'{"open": "\r\n', [stray('"\r')]),
    (b'{"a": "tab\there"}', [stray('"tab\t'), EXPECTING]),
    # Brackets.
    (b"}", [EXPECTING]),
    (b"}}]", [EXPECTING] * 3),
    (b", : ]", [EXPECTING] * 3),
    (b'{"a": 1],}', [DICT, EXPECTING, EXPECTING]),
    (b'{"a": [}]', [EXPECTING]),
    (b'{"a": [1}]', [LIST]),
    (b"[[}", [EXPECTING]),
    (b"[1}", [LIST]),
    (b'{"a"]', [No("missing : in object pair")]),
    (b'{"a":}', [EXPECTING]),
    (b'{"a" "b"}', [No("missing : in object pair")]),
    (b'{"a" = 1}', [stray("="), EXPECTING]),
    (b'{"a": 1,}', [EXPECTING]),
    (b'{"a": 1 "b": 2}', [DICT]),
    (b"[1,]", [EXPECTING]),
    (b"[1 2]", [LIST]),
    (b"{,}", [EXPECTING]),
    (b"{[1]: 2}", [No("key is not a string in object")]),
    (b'{"a": 1, "a": 2}', [No("duplicate key")]),
    (b'{"a": {"b": 1, \'b\': 2}}', [No("duplicate key")]),
    # Strings.
    (b'{"a": "\\x"}', [ESCAPE]),
    (b'["\\\xc3\xa9"]', [ESCAPE]),
    (b'["\\ud83d\\ude00\\u00e9\\u0000"]', [["\U0001f600\u00e9\0"]]),
    (b'{"a": "\\ud800"}', [character("\\ud800")]),
    (b'{"\\uDFFF": 1}', [character("\\uDFFF")]),
    (b'["\\ud800\\u0041"]', [character("\\ud800")]),
    (b'["\\ufffe"]', [character("\\ufffe")]),
    (b'["\\ud83f\\udfff"]', [character("\\ud83f\\udfff")]),
    (b'["\\u12"]', [character('\\u12"')]),
    (b'["\\u12g4"]', [character("\\u12g4")]),
    (b'["\\u\xc3\xa9\xc3\xa9"]', [character("\\u\u00e9\u00e9")]),
    (b'["\xc3\x28"]', [UTF8]),
    (b'["\x80"]', [UTF8]),
    (b'["\xed\xa0\x80"]', [UTF8]),
    (b'["\xf5\x80\x80\x80"]', [UTF8]),
    (b'["\xef\xbf\xbe"]', [UTF8]),
    (b'["\xc1\x81"]', [UTF8]),
    (b'["\\x\x80"]', [ESCAPE]),
    (b'["\x80\\x"]', [UTF8]),
    (b'["\xc0\x80\x7f\xc3\xa9"]', [["\0\x7f\u00e9"]]),
    (b'{"a": "\xff\xfe"}', [stray('"' + REPLACED), stray(REPLACED), EXPECTING]),
]  # fmt: skip
