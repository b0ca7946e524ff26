# SPDX-License-Identifier: MIT
"""All that a guest has said on its console, by whomever it was read. Pure."""

from __future__ import annotations

from pyvmm.visible import visible

KEPT_HEAD = 1 << 20
"""Bytes of the beginning that are kept, however much a guest says."""
KEPT = 64 << 20
"""Bytes of the end that are kept at least, once a guest has said more than twice that."""


class Transcript:
    """Console output since the boot, by offsets in bytes: bounded, with its beginning and its end.

    Of a guest that says more than `2 * KEPT` bytes the middle is dropped.
    """

    def __init__(self, kept: int = KEPT, kept_head: int = KEPT_HEAD) -> None:
        self._kept = kept
        self._kept_head = kept_head
        self._head = b""
        self.recent = bytearray()
        """Bytes from the offset `start` on to the end."""
        self.start = 0
        """Offset of the first byte of `recent`: 0 until something is dropped."""
        self.has_ended = False
        """No more will come."""

    def append(self, data: bytes) -> None:
        """Take what the guest has said."""
        self.recent += data
        excess = len(self.recent) - self._kept
        if excess > self._kept:
            if not self.start:
                self._head = bytes(self.recent[: self._kept_head])
            del self.recent[:excess]
            self.start += excess

    @property
    def end(self) -> int:
        """Count of all bytes that were said."""
        return self.start + len(self.recent)

    def find(self, wanted: bytes, offset: int) -> int:
        """Offset of the first `wanted` from `offset` on; -1 where there is none."""
        found = self.recent.find(wanted, max(0, offset - self.start))
        return found if found < 0 else found + self.start

    def since(self, offset: int) -> bytes:
        """Bytes from `offset` on, as far as they are kept."""
        return bytes(self.recent[max(0, offset - self.start) :])

    def between(self, offset: int, end: int) -> bytes:
        """Bytes from `offset` up to `end` (exclusive), as far as they are kept."""
        start = self.start
        return bytes(self.recent[max(0, offset - start) : max(0, end - start)])

    def all(self) -> bytes:
        """All of it; a line in the middle says how much is not kept, where it is so."""
        if not self.start:
            return bytes(self.recent)
        dropped = self.start - len(self._head)
        middle = f"\n[{dropped} bytes not kept]\n".encode() if dropped > 0 else b""
        return self._head[: self.start] + middle + self.recent


def printable(said: bytes) -> str:
    """Console output as text for people: lines, with what is not printable escaped."""
    text = said.decode("utf-8", "backslashreplace").replace("\r\n", "\n")
    return visible(text, "\n\t")
