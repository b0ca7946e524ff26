"""Sizes as people write them."""

from __future__ import annotations

import argparse

_UNITS = {"B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str) -> int:
    """A size in bytes from ``256M``, ``2MiB``, ``4096B``; a bare number counts MiB, as in QEMU."""
    digits = text.rstrip("BKMGTbkmgtiI")
    unit = text[len(digits) :].upper().removesuffix("IB") or "M"
    if unit != "B":
        unit = unit.removesuffix("B")
    if not (digits.isascii() and digits.isdecimal()) or unit not in _UNITS or len(digits) > 18:
        raise argparse.ArgumentTypeError(f"{text!r} is no size (256M, 2G, 8192K)")
    return int(digits) * _UNITS[unit]
