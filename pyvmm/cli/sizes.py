# SPDX-License-Identifier: MIT
"""Sizes and numbers as people write them: in ASCII digits, without spaces and underscores."""

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


def parse_count(text: str) -> int:
    """A whole number; whether it may be 0 or below is for who asked for it to say."""
    if not re.fullmatch(r"-?[0-9]{1,18}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def parse_seconds(text: str) -> float:
    """A number of seconds, ``1``, ``0.5``, ``1e3``; infinite where it is too large for a float."""
    if not re.fullmatch(r"-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,18})?", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return float(text)
