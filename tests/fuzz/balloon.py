# SPDX-License-Identifier: MIT
"""A balloon's chains: numbers of pages and statistics, in parts as the guest cuts them."""

from __future__ import annotations

import struct

from pyvmm.devices.virtio.balloon import MOST_NUMBERS, page_ranges, statistics
from pyvmm.rules.abi import PAGE_SIZE

from .target import Target


def one(data: bytes) -> None:
    """The first byte cuts the rest in two."""
    cut = data[0] if data else 0
    view = memoryview(data[1:])
    parts = (view[:cut], view[cut:])
    ranges = page_ranges(parts)
    assert sum(size for _, size in ranges) == min(len(view) // 4, MOST_NUMBERS) * PAGE_SIZE
    assert all(gpa >= 0 and gpa + size <= PAGE_SIZE << 32 for gpa, size in ranges)
    assert all(0 <= value < 1 << 64 for value in statistics(parts).values())


TARGET = Target(
    one,
    [b"\4" + struct.pack("<4I", 1, 2, 9, 8), b"\3" + struct.pack("<HQHQ", 4, 7, 5, 8), b""],
    most=1 << 10,
)
