# SPDX-License-Identifier: MIT
"""A writer of AML that has data only: names, integers, packages, scopes, devices; no methods.

Encodings are those of ACPI 6.5, chapter 20 ("ACPI Machine Language (AML) Specification"). Every
function returns whole terms, which go into others as they are.
"""

from __future__ import annotations

import re
from typing import NewType

from pyvmm.errors import InternalError

Aml = NewType("Aml", bytes)
"""Bytes of one term, or of several."""

_SEGMENT = re.compile(r"[A-Z_][A-Z0-9_]{0,3}")
_EISA = re.compile(r"([A-Z]{3})([0-9A-F]{4})")
_MOST_LENGTH = (1 << 28) - 1
_NAME, _SCOPE, _BUFFER, _PACKAGE, _DEVICE = b"\x08", b"\x10", b"\x11", b"\x12", b"\x5b\x82"
_STRING, _DUAL, _MULTI = b"\x0d", b"\x2e", b"\x2f"
_MOST_SHORT = 0x3F
"""The longest package whose length takes one byte."""


def integer(value: int) -> Aml:
    """An unsigned integer of up to 64 bits, as short as it can be (20.2.3)."""
    if value in (0, 1):
        return Aml(bytes([value]))
    for prefix, size in ((0x0A, 1), (0x0B, 2), (0x0C, 4), (0x0E, 8)):
        if 0 <= value < 1 << 8 * size:
            return Aml(bytes([prefix]) + value.to_bytes(size, "little"))
    raise InternalError(f"write the integer {value} in AML", "it has no 64 bits")


def string(text: str) -> Aml:
    """A string of ASCII characters (20.2.3)."""
    if not text.isascii() or "\0" in text:
        raise InternalError(f"write the string {text!r} in AML", "it is not of ASCII characters")
    return Aml(_STRING + text.encode("ascii") + b"\0")


def buffer(content: bytes) -> Aml:
    """A buffer that begins with `content` and ends there (20.2.5.4)."""
    return Aml(_BUFFER + _with_length(integer(len(content)) + content))


def package(*items: Aml) -> Aml:
    """A package of up to 255 elements (20.2.5.4)."""
    if len(items) > 0xFF:
        raise InternalError("write an AML package", f"it has {len(items)} elements, 255 fit")
    return Aml(_PACKAGE + _with_length(bytes([len(items)]) + b"".join(items)))


def eisa(name: str) -> Aml:
    """The 32-bit integer of a PNP ID such as PNP0501 (19.6.36, EISAID)."""
    found = _EISA.fullmatch(name)
    if found is None:
        raise InternalError(f"compress the ID {name!r}", "it has no three letters and four digits")
    letters, digits = found.groups()
    value = 0
    for letter in letters:
        value = value << 5 | ord(letter) - 0x40
    value = value << 16 | int(digits, 16)
    return integer(int.from_bytes(value.to_bytes(4, "big"), "little"))


def name(path: str, value: Aml) -> Aml:
    """Give `value` a name (20.2.5.1, DefName)."""
    return Aml(_NAME + _path(path) + value)


def scope(path: str, *terms: Aml) -> Aml:
    """Open the scope of what is there already (20.2.5.1, DefScope)."""
    return Aml(_SCOPE + _with_length(_path(path) + b"".join(terms)))


def device(path: str, *terms: Aml) -> Aml:
    """A device, with what belongs to it (20.2.5.2, DefDevice)."""
    return Aml(_DEVICE + _with_length(_path(path) + b"".join(terms)))


def _path(path: str) -> bytes:
    r"""A name string: segments with dots between, behind a ``\`` from the root (20.2.2)."""
    root, rest = (b"\\", path[1:]) if path.startswith("\\") else (b"", path)
    segments = rest.split(".")
    if not all(_SEGMENT.fullmatch(one) for one in segments) or len(segments) > 0xFF:
        raise InternalError(f"write the name {path!r} in AML", "it is none")
    content = b"".join(one.ljust(4, "_").encode("ascii") for one in segments)
    match len(segments):
        case 1:
            return root + content
        case 2:
            return root + _DUAL + content
        case count:
            return root + _MULTI + bytes([count]) + content


def _with_length(content: bytes) -> bytes:
    """A PkgLength, which counts itself, and `content` behind it (20.2.4)."""
    if len(content) + 1 <= _MOST_SHORT:
        return bytes([len(content) + 1]) + content
    for more in (1, 2, 3):
        length = len(content) + 1 + more
        if length < 1 << 4 + 8 * more:
            head = bytes([more << 6 | length & 0xF])
            return head + (length >> 4).to_bytes(more, "little") + content
    raise InternalError("write an AML package", f"{len(content)} bytes, {_MOST_LENGTH} fit")
