# SPDX-License-Identifier: MIT
"""JSON values out of tokens; what is none is refused in QEMU's words (qobject/json-parser.c)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Final

from pyvmm.qmp.tokens import Kind, Token

SHOWN_LIMIT: Final = 1023
"""The longest text of a description, in bytes."""

_INTEGERS: Final = range(-(1 << 63), 1 << 64)
_DIGITS_LIMIT: Final = 400
"""No finite double has more."""

_KEYWORDS: Final = {b"true": True, b"false": False, b"null": None}
_ESCAPES: Final = {
    ord('"'): '"', ord("'"): "'", ord("\\"): "\\", ord("/"): "/",
    ord("b"): "\b", ord("f"): "\f", ord("n"): "\n", ord("r"): "\r", ord("t"): "\t",
}  # fmt: skip
_HEX: Final = re.compile(rb"[0-9A-Fa-f]{4}")
_PIECES: Final = re.compile(
    rb"[\x00-\x7f]+|[\xc0-\xdf][\x80-\xbf]?|[\xe0-\xef][\x80-\xbf]{0,2}|[\xf0-\xf7][\x80-\xbf]{0,3}"
    rb"|[\xf8-\xfb][\x80-\xbf]{0,4}|[\xfc\xfd][\x80-\xbf]{0,5}|[\x80-\xbf\xfe\xff]"
)
"""ASCII, or a sequence as far as it goes on, or a byte that begins none."""
_NULL: Final = b"\xc0\x80"
"""U+0000 in what QEMU takes, which is modified UTF-8."""


class RefusedError(Exception):
    """Raised when tokens form no value; its text is the description for the peer."""


def value_of(tokens: Sequence[Token]) -> Any:
    """The value that `tokens` are, which leave no brace or bracket open. Raises `RefusedError`.

    An integer that does not fit 64 bits, signed or unsigned, is a float.
    """
    return _Parser(tokens).value()


def number_of(text: str | bytes) -> int | float:
    """The number that is written as `text`. Raises `RefusedError` where no double is so large."""
    if len(text) <= _DIGITS_LIMIT:
        try:
            integer = int(text)
        except ValueError:
            return _double(text)
        if integer in _INTEGERS:
            return integer
    return _double(text)


def shown(raw: bytes) -> str:
    """`raw` as QEMU shows it: up to a zero byte, with U+FFFD for each sequence that is no UTF-8."""
    raw = raw.partition(b"\0")[0][:SHOWN_LIMIT]
    return "".join(_decoded(piece) or "\ufffd" for piece in _PIECES.findall(raw))


class _Parser:
    """A descent along JSON's grammar."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = iter(tokens)
        self._ahead = next(self._tokens, None)

    def value(self) -> Any:
        """The value that begins here."""
        token = self._take()
        match token.kind:
            case Kind.LEFT_BRACE:
                return self._object()
            case Kind.LEFT_BRACKET:
                return self._array()
            case Kind.STRING:
                return _string(token.text)
            case Kind.INTEGER | Kind.FLOAT:
                return number_of(token.text)
            case Kind.KEYWORD if token.text in _KEYWORDS:
                return _KEYWORDS[token.text]
            case Kind.KEYWORD:
                raise _refused(f"invalid keyword '{token.text.decode()}'")
            case _:
                raise _refused("expecting value")

    def _object(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self._skips(Kind.RIGHT_BRACE):
            return found
        while True:
            key = self.value()
            if not isinstance(key, str):
                raise _refused("key is not a string in object")
            if self._take().kind is not Kind.COLON:
                raise _refused("missing : in object pair")
            value = self.value()
            if key in found:
                raise _refused("duplicate key")
            found[key] = value
            separator = self._take().kind
            if separator is Kind.RIGHT_BRACE:
                return found
            if separator is not Kind.COMMA:
                raise _refused("expected separator in dict")

    def _array(self) -> list[Any]:
        found: list[Any] = []
        if self._skips(Kind.RIGHT_BRACKET):
            return found
        while True:
            found.append(self.value())
            separator = self._take().kind
            if separator is Kind.RIGHT_BRACKET:
                return found
            if separator is not Kind.COMMA:
                raise _refused("expected separator in list")

    def _take(self) -> Token:
        token = self._ahead
        if token is None:
            raise _refused("premature EOI")
        self._ahead = next(self._tokens, None)
        return token

    def _skips(self, kind: Kind) -> bool:
        if self._ahead is None or self._ahead.kind is not kind:
            return False
        self._take()
        return True


def _string(text: bytes) -> str:
    """The string that is written as `text`, with its quotes."""
    found = []
    at, end = 1, len(text) - 1
    while at < end:
        escape = text.find(b"\\", at)
        plain = text[at : escape if escape >= 0 else end]
        if plain:
            decoded = _decoded(plain)
            if decoded is None:
                raise _refused("invalid UTF-8 sequence in string")
            found.append(decoded)
        if escape < 0:
            break
        character, at = _escaped(text, escape)
        found.append(character)
    return "".join(found)


def _escaped(text: bytes, at: int) -> tuple[str, int]:
    """The character that the escape at offset `at` of `text` stands for, and the offset behind."""
    letter = text[at + 1]
    if letter != ord("u"):
        if letter not in _ESCAPES:
            raise _refused("invalid escape sequence in string")
        return _ESCAPES[letter], at + 2
    code, end = _code(text, at + 2), at + 6
    if code in range(0xD800, 0xDC00) and text[end : end + 2] == b"\\u":
        trailing = _code(text, end + 2)
        if trailing in range(0xDC00, 0xE000):
            code = 0x10000 + ((code & 0x3FF) << 10) + (trailing & 0x3FF)
            end += 6
        else:
            code = -1
    if not _is_character(code):
        raise _refused(f"{shown(text[at:end])} is not a valid Unicode character")
    return chr(code), end


def _code(text: bytes, at: int) -> int:
    """The number in four hexadecimal digits; -1 where they are not."""
    return int(text[at : at + 4], 16) if _HEX.match(text, at) else -1


def _decoded(raw: bytes) -> str | None:
    """`raw` in modified UTF-8 as text; None where it is none, or has what is no character."""
    if raw.isascii():
        return raw.decode("ascii")
    try:
        text = raw.replace(_NULL, b"\0").decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if all(_is_character(ord(one)) for one in text) else None


def _is_character(code: int) -> bool:
    """Tell whether a code point may be in a text: no surrogate, no noncharacter of Unicode's."""
    return (
        0 <= code <= 0x10FFFF
        and not 0xD800 <= code < 0xE000
        and not 0xFDD0 <= code <= 0xFDEF
        and code & 0xFFFE != 0xFFFE
    )


def _double(text: str | bytes) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _refused("a number out of range")
    return number


def _refused(reason: str) -> RefusedError:
    return RefusedError(f"JSON parse error, {reason[:SHOWN_LIMIT]}")
