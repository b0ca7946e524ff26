# SPDX-License-Identifier: MIT
"""Owner marks: aliases by which devices are known to be this project's. Pure.

Only what has such a mark is ever changed or removed.
"""

from __future__ import annotations

from typing import Final, NamedTuple

_BEGINNING: Final = "pyvmm"
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


RUN: Final = "run"
"""Owner of what goes with a run's descriptors."""


def mark_of(alias: str | None) -> Mark | None:
    """Find the mark in an alias, None where it is somebody else's or there is none."""
    parts = (alias or "").split(":", 2)
    if len(parts) != 3 or parts[0] != _BEGINNING or not parts[1]:
        return None
    return Mark(parts[1], parts[2])
