# SPDX-License-Identifier: MIT
"""Listener for devices that reach guest memory by themselves and must know what is shared."""

from __future__ import annotations

from typing import Protocol

from pyvmm.memory.layout import GpaRange


class MemoryListener(Protocol):
    """A device that reaches guest memory by itself: told of every page that comes or goes.

    It is called under the lock of all conversions: it must not ask `GuestMemory` anything.
    """

    def leaving(self, range_: GpaRange) -> None:
        """`range_` is about to become private: let go of it before returning."""
        ...

    def joined(self, range_: GpaRange) -> None:
        """`range_` has become shared and can be used."""
        ...
