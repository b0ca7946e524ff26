# SPDX-License-Identifier: MIT
"""Listener for devices that reach guest memory by themselves and must know what is shared."""

from __future__ import annotations

from typing import Protocol

from pyvmm.memory.layout import GpaRange


class MemoryListener(Protocol):
    """A device that reaches guest memory by itself: told of every page that comes or goes.

    It hears of the ranges that it listens to only, and is called under the lock of all conversions:
    it must not ask `GuestMemory` anything, nor close a lease.
    """

    def leaving(self, range_: GpaRange) -> None:
        """`range_` is about to become private: let go of it before returning."""
        ...

    def joined(self, range_: GpaRange) -> None:
        """`range_` has become shared and can be used."""
        ...
