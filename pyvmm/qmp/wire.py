# SPDX-License-Identifier: MIT
"""QMP's bytes: a stream of JSON values in, lines of JSON out. No input or output of its own.

As QEMU does (qobject/json-streamer.c) it takes a stream: values need no newline between them and
may span lines. Where QEMU's lexer goes on in the middle of a broken value, and answers what it
finds there with more errors, this drops the rest of the line: one error for one broken line. What
it keeps is bounded by `MESSAGE_LIMIT`.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, Final

MESSAGE_LIMIT: Final = 1 << 20
"""The longest value taken, in bytes (QEMU: 64 MiB)."""
NESTING_LIMIT: Final = 256
"""How deep objects and arrays may be nested (QEMU: 1024)."""

_INTEGERS: Final = range(-(1 << 63), 1 << 64)
_DIGITS_LIMIT: Final = 400
"""No finite double has more."""

_SPACE: Final = re.compile(rb"[ \t\r\n]*")
_SCALAR: Final = re.compile(rb"[0-9A-Za-z_+.\-]*")
_BETWEEN: Final = re.compile(rb"[0-9A-Za-z_+.\- \t\r\n,:]*")
_IN_STRING: Final = re.compile(rb'(?:[^"\\\x00-\x1f]|\\[^\x00-\x1f])*')
_RESETS: Final = b"\xfe\xff"
"""Never in UTF-8: clients of QEMU's guest agent send one to get rid of half a message."""
_OPENING: Final = {ord("}"): ord("{"), ord("]"): ord("[")}
_QUOTE: Final = ord('"')
_BACKSLASH: Final = ord("\\")
_NEWLINE: Final = b"\n"


@dataclass(frozen=True, slots=True)
class Value:
    """A JSON value that has arrived."""

    value: Any


@dataclass(frozen=True, slots=True)
class Broken:
    """What has arrived is no JSON, or too much of it; `description` is what the peer is told."""

    description: str


class _RefusedError(Exception):
    """Why a value is refused."""


class Decoder:
    """Takes a stream of bytes apart: `feed` what arrives, then call `next` until it gives None."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0
        """How far `_buffer` is scanned; the value under way begins at its start."""
        self._open = bytearray()
        """The brackets that are open, outermost first."""
        self._in_string = False
        self._dropping = False
        """Whether everything up to the next newline is dropped."""
        self._was_reset = False
        """Whether a reset byte came last: more of them are no more errors."""

    @property
    def kept(self) -> int:
        """Bytes held: of a value that is not complete, and what has not been looked at."""
        return len(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take what has arrived."""
        self._buffer += data

    def next(self) -> Value | Broken | None:
        """The next value, or what is wrong with it; None: more bytes are needed."""
        buffer = self._buffer
        if not buffer:
            return None
        if not self._at and not self._dropping:
            whole = self._whole_line()
            if whole is not None:
                return whole
        if self._dropping and not self._drop():
            return None
        return self._scan()

    def _whole_line(self) -> Value | None:
        """What nearly always comes: one line that is one small object. None: look more closely."""
        buffer = self._buffer
        if buffer[0] != 0x7B or buffer.find(_NEWLINE) != len(buffer) - 1 or len(buffer) > 4096:
            return None
        if buffer.count(b"{") + buffer.count(b"[") > NESTING_LIMIT:
            return None
        try:
            found = _parse(bytes(buffer))
        except _RefusedError:
            return None
        buffer.clear()
        self._was_reset = False
        return Value(found)

    def _drop(self) -> bool:
        """Forget the rest of a broken line; False while it has not ended."""
        end = self._buffer.find(_NEWLINE)
        if end < 0:
            self._buffer.clear()
            return False
        del self._buffer[: end + 1]
        self._dropping = False
        return True

    def _scan(self) -> Value | Broken | None:
        buffer = self._buffer
        if not self._at:
            if self._was_reset:
                del buffer[: len(buffer) - len(buffer.lstrip(_RESETS))]
                self._was_reset = not buffer
            space = _SPACE.match(buffer)
            del buffer[: space.end() if space else 0]
            if not buffer:
                return None
            started = self._start(buffer[0])
            if not isinstance(started, bool):
                return started
            if not started:
                return None
        while self._at < len(buffer):
            broken = self._string() if self._in_string else self._structure()
            if broken is not None:
                return broken
            if self._in_string:
                break  # Its end, or the other half of an escape, has not arrived.
            if not self._open:
                return self._take(self._at)
        if len(buffer) > MESSAGE_LIMIT:
            return self._refuse("JSON token size limit exceeded")
        return None

    def _start(self, first: int) -> Value | Broken | bool:
        """Begin with a value at the buffer's start. True: go on; False: more bytes are needed."""
        buffer = self._buffer
        if first in b'{["':
            return True
        if first in _RESETS:
            return self._reset(1)
        scalar = _SCALAR.match(buffer)
        end = scalar.end() if scalar else 0
        if not end:
            return self._refuse(_stray(first) if first not in b"}],:" else _EXPECTING)
        if end > MESSAGE_LIMIT:
            return self._refuse("JSON token size limit exceeded")
        return self._take(end) if end < len(buffer) else False

    def _structure(self) -> Broken | None:
        """Scan up to the next bracket, quote or stray byte."""
        buffer = self._buffer
        between = _BETWEEN.match(buffer, self._at)
        assert between is not None
        self._at = between.end()
        if self._at == len(buffer):
            return None
        found = buffer[self._at]
        self._at += 1
        if found in b"{[":
            if len(self._open) == NESTING_LIMIT:
                return self._refuse("JSON nesting depth limit exceeded")
            self._open.append(found)
        elif found in b"}]":
            if self._open.pop() != _OPENING[found]:
                return self._refuse("JSON parse error, brackets do not match")
        elif found == _QUOTE:
            self._in_string = True
            return self._string()
        elif found in _RESETS:
            return self._reset(self._at)
        else:
            return self._refuse(_stray(found))
        return None

    def _string(self) -> Broken | None:
        """Scan up to a string's end."""
        buffer = self._buffer
        inside = _IN_STRING.match(buffer, self._at)
        assert inside is not None
        self._at = inside.end()
        if self._at == len(buffer):
            return None
        found = buffer[self._at]
        if found == _QUOTE:
            self._at += 1
            self._in_string = False
        elif found != _BACKSLASH or self._at + 1 < len(buffer):
            return self._refuse("JSON parse error, a control character in a string")
        return None

    def _take(self, end: int) -> Value | Broken:
        """The complete value in [0, end) of the buffer."""
        text = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._forget()
        if end > MESSAGE_LIMIT:
            return Broken("JSON token size limit exceeded")
        try:
            return Value(_parse(text))
        except _RefusedError as refused:
            return Broken(f"JSON parse error, {refused}")

    def _refuse(self, description: str) -> Broken:
        """Give up the value under way with the rest of its line."""
        # A newline in a string is not scanned yet: it ends its line.
        del self._buffer[: self._at]
        self._forget()
        self._dropping = True
        self._drop()
        return Broken(description)

    def _reset(self, end: int) -> Broken:
        """Give up the value under way, [0, end) of the buffer; what follows is a new one."""
        found = self._buffer[end - 1]
        del self._buffer[:end]
        self._forget()
        self._was_reset = True
        return Broken(_stray(found))

    def _forget(self) -> None:
        self._at = 0
        self._open.clear()
        self._in_string = False


_EXPECTING: Final = "JSON parse error, expecting value"


def _stray(byte: int) -> str:
    shown = chr(byte) if 0x20 <= byte < 0x7F else "\ufffd"
    return f"JSON parse error, stray '{shown}'"


def _parse(text: bytes) -> Any:
    """The one JSON value of `text`. Raises `_RefusedError`."""
    try:
        decoded = text.decode("utf-8")
        value = _DECODER.decode(decoded)
        if "\\u" in decoded:
            _ENCODER_OF_TEXT.encode(value).encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(error.object[error.start])
        raise _RefusedError(f"\\u{code:04x} is not a valid Unicode character") from error
    except UnicodeDecodeError as error:
        raise _RefusedError("it is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise _RefusedError(error.msg[:1].lower() + error.msg[1:]) from error
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _RefusedError("duplicate key")
    return found


def _integer(text: str) -> int | float:
    """As QEMU: what does not fit 64 bits, signed or unsigned, is a double."""
    if len(text) <= _DIGITS_LIMIT:
        number = int(text)
        if number in _INTEGERS:
            return number
    return _double(text)


def _double(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _RefusedError("a number out of range")
    return number


def _constant(name: str) -> Any:
    raise _RefusedError(f"invalid keyword '{name}'")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_double, parse_constant=_constant
)
_ENCODER_OF_TEXT: Final = json.JSONEncoder(ensure_ascii=False)
_ENCODER: Final = json.JSONEncoder(allow_nan=False)


def encode(message: object) -> bytes:
    """A message as QEMU sends it: a line of ASCII that ends with CR LF.

    Raises `TypeError` or `ValueError` for what JSON cannot say.
    """
    return _ENCODER.encode(message).encode("ascii") + b"\r\n"
