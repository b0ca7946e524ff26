# SPDX-License-Identifier: MIT
"""Sizes and numbers as people write them: in ASCII digits, without spaces and underscores."""

from __future__ import annotations

import argparse
import re

from pyvmm.memory.sizes import size_of


def parse_size(text: str) -> int:
    """A size in bytes, as `size_of` reads it."""
    size = size_of(text)
    if size is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size (256M, 2G, 8192K)")
    return size


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
