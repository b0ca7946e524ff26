# SPDX-License-Identifier: MIT
"""Steps in which memory is worked on: nobody waits for more than one of them."""

from __future__ import annotations

from collections.abc import Iterator

from pyvmm.memory.layout import MIB, GpaRange

STEP = 2 * MIB
"""Bytes that are converted, cleared or copied at the most before others have the lock of
conversions. No large page of 2 MiB is cut. conversions.c has the same (PYVMM_STEP)."""


def is_one_step(whole: GpaRange) -> bool:
    """Tell whether `whole`, which is not empty, is not cut."""
    return whole.start // STEP == (whole.end - 1) // STEP


def steps_in(whole: GpaRange) -> Iterator[GpaRange]:
    """Yield `whole` cut at multiples of `STEP`, ascending."""
    start = whole.start
    while start < whole.end:
        end = min(whole.end, (start // STEP + 1) * STEP)
        yield GpaRange(start, end)
        start = end
