# SPDX-License-Identifier: MIT
"""Arguments of a human monitor's commands: formats like /4xw, and sums with registers. Pure.

The grammar is that of QEMU's monitor (monitor/hmp.c): unsigned 64-bit arithmetic, ``+ -`` below
``& | ^`` below ``* / %``, numbers as C has them, ``$rip``.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass

_MASK = (1 << 64) - 1
_DEEPEST = 32
"""Parentheses within one another."""
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|[0-9]+")
_NAME = re.compile(r"[A-Za-z0-9_.]+")
_SIZES = {"b": 1, "h": 2, "w": 4, "g": 8, "L": 8}


class LineError(Exception):
    """A line that means nothing; its text is for the one who typed it."""


class TrailingError(LineError):
    """More on the line than belongs there."""


class Base(enum.Enum):
    """Format in which an item is shown; the values are the letters."""

    HEXADECIMAL = "x"
    SIGNED = "d"
    UNSIGNED = "u"
    OCTAL = "o"
    CHARACTER = "c"


@dataclass(frozen=True, slots=True)
class Format:
    """`count` items of `size` bytes each."""

    count: int = 1
    base: Base = Base.HEXADECIMAL
    size: int = 4


def take_format(text: str) -> tuple[Format, str]:
    """A format in front of `text`, if there is one, and what follows. Raises `LineError`."""
    text = text.lstrip()
    if not text.startswith("/"):
        return Format(), text
    word = text[1:].split(maxsplit=1)[0] if text[1:2].strip() else ""
    rest = text[1 + len(word) :]
    digits = re.match(r"[0-9]*", word)
    count = digits.group() if digits else ""
    base, size = Base.HEXADECIMAL, 4
    for letter in word[len(count) :]:
        if letter in _SIZES:
            size = _SIZES[letter]
        elif letter == "i":
            raise LineError("format i: there is no disassembler here; look at the bytes with /16xb")
        elif letter in Base._value2member_map_:
            base = Base(letter)
        else:
            raise LineError(f"invalid char in format: '{letter}'")
    if len(count) > 9:
        raise LineError("number too large")
    return Format(int(count or 1), base, size), rest


def evaluate(text: str, registers: Mapping[str, int]) -> int:
    """The value of an expression that is all of `text`. Raises `LineError`."""
    parser = _Parser(text, registers)
    value = parser.sum(0)
    if parser.rest():
        raise TrailingError("extraneous characters at the end of line")
    return value


class _Parser:
    def __init__(self, text: str, registers: Mapping[str, int]) -> None:
        self._text = text
        self._at = 0
        self._registers = registers

    def rest(self) -> str:
        """Return the text that is left, without spaces in front."""
        while self._at < len(self._text) and self._text[self._at].isspace():
            self._at += 1
        return self._text[self._at :]

    def _operator(self, of: str) -> str:
        rest = self.rest()
        if not rest or rest[0] not in of:
            return ""
        self._at += 1
        return rest[0]

    def sum(self, depth: int) -> int:
        value = self._logic(depth)
        while operator := self._operator("+-"):
            other = self._logic(depth)
            value = (value + other if operator == "+" else value - other) & _MASK
        return value

    def _logic(self, depth: int) -> int:
        value = self._product(depth)
        while operator := self._operator("&|^"):
            other = self._product(depth)
            if operator == "&":
                value &= other
            elif operator == "|":
                value |= other
            else:
                value ^= other
        return value

    def _product(self, depth: int) -> int:
        value = self._unary(depth)
        while operator := self._operator("*/%"):
            other = self._unary(depth)
            if operator == "*":
                value = value * other & _MASK
            elif not other:
                raise LineError("division by zero")
            else:
                value = value // other if operator == "/" else value % other
        return value

    def _unary(self, depth: int) -> int:
        if depth > _DEEPEST:
            raise LineError("expression nested too deeply")
        rest = self.rest()
        if not rest:
            raise LineError("unexpected end of expression")
        if operator := self._operator("+-~("):
            if operator == "(":
                value = self.sum(depth + 1)
                if not self._operator(")"):
                    raise LineError("')' expected")
                return value
            value = self._unary(depth + 1)
            return {"+": value, "-": -value, "~": ~value}[operator] & _MASK
        if rest[0] == "$":
            return self._register(rest)
        return self._number(rest)

    def _register(self, rest: str) -> int:
        found = _NAME.match(rest, 1)
        name = found.group() if found else ""
        if name not in self._registers:
            raise LineError("unknown register")
        self._at += 1 + len(name)
        return self._registers[name] & _MASK

    def _number(self, rest: str) -> int:
        found = _NUMBER.match(rest)
        if found is None:
            raise LineError(f"invalid char '{rest[0]}' in expression")
        digits = found.group()
        # Bounded before it is converted: Python refuses what is longer than 4,300 digits.
        if len(digits) > 24:
            raise LineError("number too large")
        octal = digits.startswith("0") and digits.isdigit()
        try:
            value = int(digits, 8 if octal else 0)
        except ValueError:
            raise LineError(f"invalid number {digits}") from None
        if value > _MASK:
            raise LineError("number too large")
        self._at += len(digits)
        return value
