# SPDX-License-Identifier: MIT
"""pvpanic: how a guest reports that it has panicked.

Source: QEMU's docs/specs/pvpanic. One port; reading it gives the events that the device knows.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final

from pyvmm.devices.stateless import Stateless


class PanicEvent(enum.IntFlag):
    """Events that a guest reports. The values are the bits of the port."""

    PANICKED = 1 << 0
    """It has panicked, and the host is to deal with it."""
    CRASH_LOADED = 1 << 1
    """It has panicked and deals with it itself (a crash kernel): only to be noted."""


_SUPPORTED: Final = int(PanicEvent.PANICKED | PanicEvent.CRASH_LOADED)


class Pvpanic(Stateless):
    """A single-byte port that calls `on_panic` with one event, never a combination.

    Of both bits in one write, `PanicEvent.PANICKED` counts, as in QEMU. Other bits are ignored.
    """

    def __init__(self, on_panic: Callable[[PanicEvent], None]) -> None:
        self._on_panic = on_panic

    def read(self, offset: int, size: int) -> int:
        """The bits of the events that the device knows."""
        del offset, size
        return _SUPPORTED

    def write(self, offset: int, size: int, value: int) -> None:
        """Report what the bits say."""
        del offset, size
        if value & PanicEvent.PANICKED:
            self._on_panic(PanicEvent.PANICKED)
        elif value & PanicEvent.CRASH_LOADED:
            self._on_panic(PanicEvent.CRASH_LOADED)
