# SPDX-License-Identifier: MIT
"""A secret that a guest has: known by the seed that it was made of, and never put together here.

Otherwise a search of this process would find it, and that would prove nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyvmm.demo.stage.mailbox import pattern_at
from pyvmm.demo.telling.outcomes import Content

SIZE = 16
"""Bytes that it has."""
_WORD = 8


@dataclass(frozen=True, slots=True)
class Secret:
    """`SIZE` bytes from `gpa` on, a multiple of 8."""

    gpa: int
    seed: int

    def is_in(self, data: bytes | bytearray | memoryview, gpa: int) -> bool:
        """Tell whether `data`, read from `gpa` on, has one of its words, where it belongs."""
        for at in range(self.gpa, self.gpa + SIZE, _WORD):
            offset = at - gpa
            if 0 <= offset <= len(data) - _WORD:
                word = pattern_at(at, self.seed)
                low = int.from_bytes(data[offset : offset + 4], "little")
                high = int.from_bytes(data[offset + 4 : offset + _WORD], "little")
                # Compared half by half: whole, its bytes would lie beside each other.
                if low == word & 0xFFFF_FFFF and high == word >> 32:
                    return True
        return False


def content_of(data: bytes | bytearray | memoryview, gpa: int, secret: Secret | None) -> Content:
    """Say what `data`, read from `gpa` on, is."""
    if not any(data):
        return Content.ZERO
    if secret is not None and secret.is_in(data, gpa):
        return Content.SECRET
    return Content.OTHER
