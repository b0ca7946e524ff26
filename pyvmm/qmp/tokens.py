# SPDX-License-Identifier: MIT
"""The tokens of QMP's input, out of bytes that come in any pieces. No input or output of its own.

The tokens, and where reading goes on after a byte that begins none, are those of QEMU's
qobject/json-lexer.c: JSON's (RFC 8259), and strings in single quotes.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from typing import Final, NamedTuple


class Kind(enum.Enum):
    """Kind of a token."""

    LEFT_BRACE = enum.auto()
    RIGHT_BRACE = enum.auto()
    LEFT_BRACKET = enum.auto()
    RIGHT_BRACKET = enum.auto()
    COLON = enum.auto()
    COMMA = enum.auto()
    STRING = enum.auto()
    """With its quotes and escapes, as it came."""
    INTEGER = enum.auto()
    FLOAT = enum.auto()
    KEYWORD = enum.auto()
    """Lower-case letters, known or not."""
    STRAY = enum.auto()
    """No token: what came up to the byte, inclusive, that nothing can go on with."""
    TOO_LONG = enum.auto()
    """The beginning of a token that is longer than the limit; its rest does not come."""
    LINE_END = enum.auto()
    """A newline or carriage return between tokens, where that was asked for."""


class Token(NamedTuple):
    """A token and its bytes."""

    kind: Kind
    text: bytes


class _State(enum.Enum):
    START = enum.auto()
    RECOVERY = enum.auto()
    DOUBLE = enum.auto()
    DOUBLE_ESCAPE = enum.auto()
    SINGLE = enum.auto()
    SINGLE_ESCAPE = enum.auto()
    SIGN = enum.auto()
    ZERO = enum.auto()
    DIGITS = enum.auto()
    POINT = enum.auto()
    FRACTION = enum.auto()
    EXPONENT = enum.auto()
    EXPONENT_SIGN = enum.auto()
    EXPONENT_DIGITS = enum.auto()
    KEYWORD = enum.auto()


def _row(*steps: tuple[Iterable[int], _State | Kind]) -> dict[int, _State | Kind]:
    return {byte: to for bytes_, to in steps for byte in bytes_}


_DIGITS: Final = b"0123456789"
_LETTERS: Final = b"abcdefghijklmnopqrstuvwxyz"
_TEXT: Final = range(0x20, 0xFE)
"""A string's bytes: no control characters, and neither 0xFE nor 0xFF, which UTF-8 never has."""

_STEPS: Final = {
    _State.START: _row(
        (b" \t\r\n", _State.START),
        (b'"', _State.DOUBLE),
        (b"'", _State.SINGLE),
        (b"-", _State.SIGN),
        (b"0", _State.ZERO),
        (b"123456789", _State.DIGITS),
        (_LETTERS, _State.KEYWORD),
        (b"{", Kind.LEFT_BRACE),
        (b"}", Kind.RIGHT_BRACE),
        (b"[", Kind.LEFT_BRACKET),
        (b"]", Kind.RIGHT_BRACKET),
        (b":", Kind.COLON),
        (b",", Kind.COMMA),
    ),
    _State.RECOVERY: _row((_TEXT, _State.RECOVERY), (b"\t", _State.RECOVERY)),
    _State.DOUBLE: _row((_TEXT, _State.DOUBLE), (b"\\", _State.DOUBLE_ESCAPE), (b'"', Kind.STRING)),
    _State.DOUBLE_ESCAPE: _row((_TEXT, _State.DOUBLE)),
    _State.SINGLE: _row((_TEXT, _State.SINGLE), (b"\\", _State.SINGLE_ESCAPE), (b"'", Kind.STRING)),
    _State.SINGLE_ESCAPE: _row((_TEXT, _State.SINGLE)),
    _State.SIGN: _row((b"0", _State.ZERO), (b"123456789", _State.DIGITS)),
    _State.ZERO: _row((_DIGITS, Kind.STRAY), (b".", _State.POINT)),
    _State.DIGITS: _row((_DIGITS, _State.DIGITS), (b".", _State.POINT), (b"eE", _State.EXPONENT)),
    _State.POINT: _row((_DIGITS, _State.FRACTION)),
    _State.FRACTION: _row((_DIGITS, _State.FRACTION), (b"eE", _State.EXPONENT)),
    _State.EXPONENT: _row((b"+-", _State.EXPONENT_SIGN), (_DIGITS, _State.EXPONENT_DIGITS)),
    _State.EXPONENT_SIGN: _row((_DIGITS, _State.EXPONENT_DIGITS)),
    _State.EXPONENT_DIGITS: _row((_DIGITS, _State.EXPONENT_DIGITS)),
    _State.KEYWORD: _row((_LETTERS, _State.KEYWORD)),
}

_ENDS: Final = {
    _State.ZERO: Kind.INTEGER,
    _State.DIGITS: Kind.INTEGER,
    _State.FRACTION: Kind.FLOAT,
    _State.EXPONENT_DIGITS: Kind.FLOAT,
    _State.KEYWORD: Kind.KEYWORD,
}
"""Tokens that are complete when a byte follows that does not belong to them, by state."""

for _structure in b"{}[]:,":
    del _STEPS[_State.RECOVERY][_structure]

_RUNS: Final = {
    _State.START: re.compile(rb"[ \t\r\n]*"),
    _State.RECOVERY: re.compile(rb"[^\x00-\x08\x0a-\x1f\[\]{}:,\xfe\xff]*"),
    _State.DOUBLE: re.compile(rb'(?:[^\x00-\x1f\xfe\xff"\\]++|\\[\x20-\xfd])*+'),
    _State.SINGLE: re.compile(rb"(?:[^\x00-\x1f\xfe\xff'\\]++|\\[\x20-\xfd])*+"),
    _State.DIGITS: re.compile(rb"[0-9]*"),
    _State.FRACTION: re.compile(rb"[0-9]*"),
    _State.EXPONENT_DIGITS: re.compile(rb"[0-9]*"),
    _State.KEYWORD: re.compile(rb"[a-z]*"),
}
"""The bytes that change no state, many at once."""


class Lexer:
    """Takes bytes apart into tokens: `feed` what arrives, then call `next` until it gives None.

    `limit` is the length of the longest token, in bytes. With `tells_line_ends` tokens are told of
    that otherwise are white space.
    """

    def __init__(self, limit: int) -> None:
        self.tells_line_ends = False
        self._limit = limit
        self._buffer = b""
        self._at = 0
        """Offset in `_buffer` of the next byte to read."""
        self._state = _State.START
        self._token = bytearray()
        """Bytes read so far of the token under way."""
        self._is_too_long = False

    @property
    def kept(self) -> int:
        """Bytes held: of the token under way, and what has not been read."""
        return len(self._token) + len(self._buffer) - self._at

    @property
    def is_idle(self) -> bool:
        """True when everything has been read, and no token is under way."""
        return self._state is _State.START and self._at == len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take what has arrived."""
        self._buffer = self._buffer[self._at :] + data
        self._at = 0

    def next(self) -> Token | None:
        """The next token; None: more bytes are needed."""
        while self._at < len(self._buffer):
            token = self._run()
            if token is None and self._at < len(self._buffer):
                token = self._step(self._buffer[self._at])
            if token is not None:
                return token
        return None

    def _run(self) -> Token | None:
        """Read the bytes that leave the state as it is."""
        run = _RUNS.get(self._state)
        found = run.match(self._buffer, self._at) if run is not None else None
        if found is None:
            return None
        if self._state is _State.START and self.tells_line_ends:
            line_end = _LINE_END.search(found[0])
            if line_end is not None:
                self._at += line_end.end()
                return Token(Kind.LINE_END, line_end[0])
        self._at = found.end()
        return self._keep(found[0])

    def _step(self, byte: int) -> Token | None:
        """Read a byte, or end what is complete before it."""
        state = self._state
        to = _STEPS[state].get(byte)
        if to is None:
            if state is _State.RECOVERY:
                self._state = _State.START
                return None
            if state in _ENDS:
                return self._complete(_ENDS[state])
            to = Kind.STRAY
        self._at += 1
        if isinstance(to, _State):
            self._state = to
            return self._keep(bytes((byte,)))
        if not self._is_too_long:
            self._token.append(byte)
        return self._complete(to)

    def _keep(self, data: bytes) -> Token | None:
        """Add to the token under way."""
        if self._state in _BETWEEN or self._is_too_long:
            return None
        self._token += data
        if len(self._token) <= self._limit:
            return None
        token = Token(Kind.TOO_LONG, bytes(self._token))
        self._token.clear()
        self._is_too_long = True
        return token

    def _complete(self, kind: Kind) -> Token | None:
        """End the token under way. None for the rest of one that was too long."""
        token = Token(kind, bytes(self._token))
        was_told = self._is_too_long and kind is not Kind.STRAY
        self._token.clear()
        self._is_too_long = False
        self._state = _State.RECOVERY if kind is Kind.STRAY else _State.START
        return None if was_told else token


_BETWEEN: Final = frozenset({_State.START, _State.RECOVERY})
_LINE_END: Final = re.compile(rb"[\r\n]")
