# SPDX-License-Identifier: MIT
"""A device that keeps note of the pages it may reach."""

from __future__ import annotations

from pyvmm.memory.layout import GpaRange
from pyvmm.rules.abi import PAGE_SIZE


class ReachingDevice:
    """The pages that a device may reach, by what it was told."""

    def __init__(self) -> None:
        self.reaches: set[int] = set()

    def leaving(self, range_: GpaRange) -> None:
        self.reaches -= pages_of(range_)

    def joined(self, range_: GpaRange) -> None:
        self.reaches |= pages_of(range_)


def pages_of(range_: GpaRange) -> set[int]:
    """The numbers of the pages of a range."""
    return set(range(range_.start // PAGE_SIZE, range_.end // PAGE_SIZE))
