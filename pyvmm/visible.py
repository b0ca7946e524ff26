# SPDX-License-Identifier: MIT
"""Text from a guest, a file's name or a program, as something that every writer can show."""

from __future__ import annotations


def visible(text: str, keep: str = "") -> str:
    """`text` with what is not printable written out, except for the letters in `keep`.

    A byte that was no UTF-8 (Python's surrogateescape, as in the names of files) and a control
    character become ``\\xNN``, others ``\\uNNNN``: no text moves a terminal's cursor, and all of
    it can be encoded.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in keep else _written(one) for one in text)


def _written(letter: str) -> str:
    number = ord(letter)
    if 0xDC80 <= number <= 0xDCFF:
        number -= 0xDC00
    if number <= 0xFF:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"
