# SPDX-License-Identifier: MIT
"""The debug console of Bochs and QEMU (``-debugcon``): one port, bytes written are shown.

A guest tells that it is there by reading its own port number from it, 0xe9, where nothing at all
would read as 0xff.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pyvmm.devices.posting import PortPosting
from pyvmm.devices.stateless import Stateless

READ_VALUE: Final = 0xE9
"""Value of every read."""

_POSTING: Final = (PortPosting(0, write=True, read_value=READ_VALUE),)
_BYTES: Final = tuple(bytes((value,)) for value in range(256))


class DebugConsole(Stateless):
    """A single-byte port; `sink` takes what is written, one byte or more at a time."""

    def __init__(self, sink: Callable[[bytes], None]) -> None:
        self._sink = sink

    @property
    def posting(self) -> tuple[PortPosting, ...]:
        """Everything, always."""
        return _POSTING

    def posted_write(self, data: bytes) -> None:
        """Bytes that were written to the port."""
        self._sink(data)

    def read(self, offset: int, size: int) -> int:
        """`READ_VALUE`."""
        del offset, size
        return READ_VALUE

    def write(self, offset: int, size: int, value: int) -> None:
        """Show the low 8 bits of `value`."""
        del offset, size
        self._sink(_BYTES[value & 0xFF])
