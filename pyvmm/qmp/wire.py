# SPDX-License-Identifier: MIT
"""QMP's bytes: a stream of JSON values in, lines of JSON out. No input or output of its own.

As QEMU does (qobject/json-streamer.c) it takes a stream: values need nothing between them, and may
span lines; after what is none it goes on where QEMU does, so that the same bytes have the same
answers. What it keeps is bounded by `MESSAGE_LIMIT`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from pyvmm.qmp.tokens import Kind, Lexer, Token
from pyvmm.qmp.values import RefusedError, number_of, shown, value_of

MESSAGE_LIMIT: Final = 1 << 20
"""The longest value taken, in bytes without white space (QEMU: 64 MiB)."""
TOKEN_LIMIT: Final = 1 << 15
"""Largest number of tokens in a value (QEMU: 2 Mi, as many for each byte)."""
NESTING_LIMIT: Final = 256
"""Largest depth to which objects and arrays may be nested (QEMU: 1024)."""

_WHOLE_LINE_LIMIT: Final = 4096


@dataclass(frozen=True, slots=True)
class Value:
    """A JSON value that has arrived."""

    value: Any


@dataclass(frozen=True, slots=True)
class Broken:
    """Input that is no JSON, or too much of it; `description` is what the peer is told."""

    description: str


class Decoder:
    """Takes a stream of bytes apart: `feed` what arrives, then call `next` until it gives None."""

    def __init__(self) -> None:
        self._lexer = Lexer(MESSAGE_LIMIT)
        self._tokens: list[Token] = []
        """Those of the value under way."""
        self._size = 0
        """Their bytes."""
        self._braces = 0
        self._brackets = 0
        """Number of open brackets. May be -1 for a moment: closed without having been open."""
        self._whole: Value | None = None
        """Value that arrived as a line of its own, and is not taken yet."""

    @property
    def kept(self) -> int:
        """Bytes held: of a value that is not complete, and what has not been looked at."""
        return self._size + self._lexer.kept

    def feed(self, data: bytes) -> None:
        """Take what has arrived."""
        if self._is_idle:
            self._whole = _whole_line(data)
            if self._whole is not None:
                return
        self._lexer.feed(data)

    def next(self) -> Value | Broken | None:
        """The next value, or what is wrong with it; None: more bytes are needed."""
        if self._whole is not None:
            whole, self._whole = self._whole, None
            return whole
        while (token := self._lexer.next()) is not None:
            found = self._take(token)
            if found is not None:
                return found
        return None

    @property
    def _is_idle(self) -> bool:
        return (
            self._lexer.is_idle
            and self._whole is None
            and not self._tokens
            and not self._is_dropping
        )

    @property
    def _is_dropping(self) -> bool:
        """True while the rest of a value beyond a limit is dropped, up to its end or its line's."""
        return self._lexer.tells_line_ends

    def _take(self, token: Token) -> Value | Broken | None:
        """Add a token; the value that it completes, or what is wrong."""
        if token.kind is Kind.STRAY:
            self._forget()
            return Broken(f"JSON parse error, stray '{shown(token.text)}'")
        self._braces += _BRACES.get(token.kind, 0)
        self._brackets += _BRACKETS.get(token.kind, 0)
        depth = self._braces + self._brackets
        is_open = depth > 0 and self._braces >= 0 and self._brackets >= 0
        if self._is_dropping:
            if not is_open or token.kind is Kind.LINE_END:
                self._forget()
            return None
        beyond = self._beyond(token, depth)
        if beyond is not None:
            self._tokens.clear()
            self._size = 0
            self._lexer.tells_line_ends = is_open
            return Broken(f"JSON {beyond} limit exceeded")
        self._tokens.append(token)
        self._size += len(token.text)
        return None if is_open else self._complete()

    def _beyond(self, token: Token, depth: int) -> str | None:
        """The limit that `token` goes beyond, if any."""
        if token.kind is Kind.TOO_LONG or self._size + len(token.text) > MESSAGE_LIMIT:
            return "token size"
        if len(self._tokens) == TOKEN_LIMIT:
            return "token count"
        return "nesting depth" if depth > NESTING_LIMIT else None

    def _complete(self) -> Value | Broken:
        tokens = self._tokens
        self._tokens = []
        self._forget()
        try:
            return Value(value_of(tokens))
        except RefusedError as refused:
            return Broken(str(refused))

    def _forget(self) -> None:
        """Begin anew with the next token."""
        self._tokens.clear()
        self._size = self._braces = self._brackets = 0
        self._lexer.tells_line_ends = False


_BRACES: Final = {Kind.LEFT_BRACE: 1, Kind.RIGHT_BRACE: -1}
_BRACKETS: Final = {Kind.LEFT_BRACKET: 1, Kind.RIGHT_BRACKET: -1}


def _whole_line(data: bytes) -> Value | None:
    """Decode the usual case, a line that is one small object; None if a closer look is needed."""
    if (
        len(data) > _WHOLE_LINE_LIMIT
        or not data.startswith(b"{")
        or not data.endswith(b"\n")
        or b"\\u" in data
        or data.count(b"{") + data.count(b"[") > NESTING_LIMIT
    ):
        return None
    try:
        return Value(_DECODER.decode(data.decode("ascii")))
    except (UnicodeDecodeError, json.JSONDecodeError, RefusedError):
        return None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise RefusedError
    return found


def _float(text: str) -> float | int:
    if text.lstrip("-").startswith(("0e", "0E")):
        raise RefusedError  # Two tokens, for QEMU.
    return number_of(text)


def _constant(name: str) -> Any:
    raise RefusedError(name)


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=number_of, parse_float=_float, parse_constant=_constant
)
_ENCODER: Final = json.JSONEncoder(allow_nan=False)


def encode(message: object) -> bytes:
    """A message as QEMU sends it: a line of ASCII that ends with CR LF.

    Raises `TypeError` or `ValueError` for what JSON cannot say.
    """
    return _ENCODER.encode(message).encode("ascii") + b"\r\n"
