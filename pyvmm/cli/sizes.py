# SPDX-License-Identifier: MIT
"""Sizes as people write them."""

from __future__ import annotations

import argparse
import re

_UNITS = {"B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str) -> int:
    """A size in bytes from ``256M``, ``2MiB``, ``4096B``; a bare number counts MiB, as in QEMU."""
    match = re.fullmatch(r"([0-9]{1,18})(?:(B)|([KMGT])(?:i?B)?)?", text, re.IGNORECASE | re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size (256M, 2G, 8192K)")
    digits, single, unit = match.groups()
    return int(digits) * _UNITS[(single or unit or "M").upper()]
