# SPDX-License-Identifier: MIT
"""Capabilities of a PCI function: a list in its configuration space (PCI 3.0, 6.7). Pure."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple


class CapabilityId(enum.IntEnum):
    """Numbers of capabilities (PCI Code and ID Assignment Specification)."""

    VENDOR = 0x09
    MSIX = 0x11


HEADER = 2
"""Bytes in front of a capability's own: its number, and where the next one is."""


def _nothing(_body: bytearray, _offset: int, _size: int) -> None:
    """Do nothing."""


class Capability(NamedTuple):
    """A capability: its bytes behind the header, and which of their bits a driver can write.

    Both functions are given the bytes as they are, and which of them, from `offset` on, `size`
    bytes, a driver is about to read or has written; they may change any. Called under the guard of
    the function's device.
    """

    number: CapabilityId
    body: bytes
    writable: bytes
    before_read: Callable[[bytearray, int, int], None] = _nothing
    written: Callable[[bytearray, int, int], None] = _nothing
