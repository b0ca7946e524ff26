# SPDX-License-Identifier: MIT
"""Owner marks, by which devices are known to be this project's. Pure.

Only what has such a mark is ever changed or removed. A mark is an alias, which says what a device
is; but the kernel takes none in the message that makes a device. So there is a group, too, which it
takes: of a device that has its owner's and no alias, the maker has ended in between.
"""

from __future__ import annotations

import zlib
from typing import Final, NamedTuple

_BEGINNING: Final = "pyvmm"
_GROUPS: Final = 0x76 << 24
LONGEST: Final = 255
"""Bytes of an alias (IFALIASZ, without the byte that ends it)."""


class Mark(NamedTuple):
    """The owner of a device (the name of a topology, or `RUN` of a machine's run), and what the
    device is for it.
    """

    owner: str
    role: str

    @property
    def alias(self) -> str:
        """The device's alias (IFLA_IFALIAS)."""
        return f"{_BEGINNING}:{self.owner}:{self.role}"

    @property
    def group(self) -> int:
        """The device's group (IFLA_GROUP)."""
        return group_of(self.owner)


def group_of(owner: str) -> int:
    """Group of an owner's devices: 31 bits, of which the first say that it is ours."""
    return _GROUPS | zlib.crc32(owner.encode()) & 0x00FF_FFFF


RUN: Final = "run"
"""Owner of what goes with a run's descriptors."""


def mark_of(alias: str | None) -> Mark | None:
    """Find the mark in an alias, None where it is somebody else's or there is none."""
    parts = (alias or "").split(":", 2)
    if len(parts) != 3 or parts[0] != _BEGINNING or not parts[1]:
        return None
    return Mark(parts[1], parts[2])
