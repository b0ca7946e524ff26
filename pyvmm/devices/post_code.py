# SPDX-License-Identifier: MIT
"""Port 0x80, where a PC's firmware posts how far it is, and Linux writes to let time pass.

Nothing looks at what is written. The port is there so that the writes are taken without leaving
for Python: Linux makes one behind each of its slow port accesses (``native_io_delay``).
"""

from __future__ import annotations

from typing import Final

from pyvmm.devices.posting import PortPosting
from pyvmm.devices.stateless import Stateless

_FLOATING: Final = 0xFF
_POSTING: Final = (PortPosting(0, write=True, read_value=_FLOATING),)


class PostCode(Stateless):
    """A single-byte port that drops what is written and reads as all ones."""

    @property
    def posting(self) -> tuple[PortPosting, ...]:
        """Everything, always."""
        return _POSTING

    def posted_write(self, data: bytes) -> None:
        """Nothing: nobody looks."""

    def read(self, offset: int, size: int) -> int:
        """All ones, as where nothing answers."""
        del offset, size
        return _FLOATING

    def write(self, offset: int, size: int, value: int) -> None:
        """Nothing: nobody looks."""
