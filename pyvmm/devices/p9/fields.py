# SPDX-License-Identifier: MIT
"""Fields of 9P2000.L's messages as bytes and back.

A layout has a letter for each field: 1, 2, 4 and 8 are numbers of so many bytes, s is a string, n
are names, q is a qid and w are qids. Strings, names and qids have a count (u16) before them.
"""

from __future__ import annotations

import enum
import struct
from typing import Any, Final, NamedTuple

_COUNT: Final = struct.Struct("<H")
_NUMBERS: Final = {
    letter: struct.Struct(f"<{code}") for letter, code in zip("1248", "BHIQ", strict=True)
}
_QID: Final = struct.Struct("<BIQ")


class MessageError(ValueError):
    """Bytes that are no message of the kind they say."""


class Qid(NamedTuple):
    """Identity of a file on the server: `path` differs between any two that exist at once."""

    kind: int
    version: int
    path: int


class QidKind(enum.IntFlag):
    """Kinds of files that a qid tells apart."""

    FILE = 0
    SYMLINK = 0x02
    DIRECTORY = 0x80


def encode(layout: str, values: tuple[Any, ...]) -> bytes:
    """Fields as bytes. Raises `MessageError` for what has no room in its field."""
    parts = []
    try:
        for letter, value in zip(layout, values, strict=True):
            match letter:
                case "s":
                    parts += [_COUNT.pack(len(value)), value]
                case "n":
                    parts.append(_COUNT.pack(len(value)))
                    parts += [_COUNT.pack(len(name)) + name for name in value]
                case "q":
                    parts.append(_QID.pack(*value))
                case "w":
                    parts.append(_COUNT.pack(len(value)))
                    parts += [_QID.pack(*qid) for qid in value]
                case _:
                    parts.append(_NUMBERS[letter].pack(value))
    except struct.error as error:
        raise MessageError(str(error)) from error
    return b"".join(parts)


def decode(layout: str, body: bytes) -> tuple[tuple[Any, ...], int]:
    """Fields of `body`, and the bytes that they have taken. Raises `MessageError`."""
    values: list[Any] = []
    at = 0
    for letter in layout:
        value, at = _field(letter, body, at)
        values.append(value)
    return tuple(values), at


def _field(letter: str, body: bytes, at: int) -> tuple[Any, int]:
    if letter in _NUMBERS:
        return _number(_NUMBERS[letter], body, at)
    if letter == "q":
        if at + _QID.size > len(body):
            raise MessageError("it is cut within a qid")
        return Qid(*_QID.unpack_from(body, at)), at + _QID.size
    count, at = _number(_COUNT, body, at)
    if letter == "s":
        if at + count > len(body):
            raise MessageError("it is cut within a string")
        return body[at : at + count], at + count
    values = []
    for _ in range(count):
        value, at = _field("s" if letter == "n" else "q", body, at)
        values.append(value)
    return tuple(values), at


def _number(codec: struct.Struct, body: bytes, at: int) -> tuple[int, int]:
    if at + codec.size > len(body):
        raise MessageError("it is cut within a number")
    return codec.unpack_from(body, at)[0], at + codec.size
