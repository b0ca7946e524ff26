# SPDX-License-Identifier: MIT
"""Sizes as people write them: in ASCII digits, without spaces and underscores."""

from __future__ import annotations

import re

_UNITS = {"B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"([0-9]{1,18})(?:(B)|([KMGT])(?:i?B)?)?", re.IGNORECASE | re.ASCII)


def size_of(text: str) -> int | None:
    """Bytes of ``256M``, ``2MiB``, ``4096B``; a bare number counts MiB, as in QEMU.

    None where it is no size.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        return None
    digits, single, unit = match.groups()
    return int(digits) * _UNITS[(single or unit or "M").upper()]


def size_text(size: int) -> str:
    """`size` bytes as short as it goes without loss: ``64M``, ``1G``, ``65537B``.

    `size_of` reads it back.
    """
    for letter in "TGMK":
        if size and size % _UNITS[letter] == 0:
            return f"{size // _UNITS[letter]}{letter}"
    return f"{size}B"
