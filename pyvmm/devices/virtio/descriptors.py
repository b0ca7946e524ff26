# SPDX-License-Identifier: MIT
"""Descriptors of both kinds of ring, and the chain that becomes of them."""

from __future__ import annotations

import struct
from typing import Final

from pyvmm.devices.virtio.rings import (
    GPA_END,
    MOST_BYTES,
    MOST_DESCRIPTORS,
    BadChainError,
    Buffer,
    Chain,
    TableReader,
    UnreadableError,
)

NEXT: Final = 1
WRITE: Final = 2
INDIRECT: Final = 4
SIZE: Final = 16
"""Bytes of a descriptor."""
DESCRIPTOR: Final = struct.Struct("<QIHH")
"""GPA, length, and two words: flags and next in a split ring, ID and flags in a packed one."""


def table_of(chain: Chain, gpa: int, length: int, tables: TableReader) -> bytes:
    """Copy the table of descriptors that one of `chain` points to. Raises `BadChainError`."""
    if not length or length % SIZE:
        raise BadChainError(chain, f"its table has {length} bytes, and a descriptor {SIZE}")
    if length > SIZE * MOST_DESCRIPTORS:
        raise BadChainError(chain, f"its table has more than {MOST_DESCRIPTORS} descriptors")
    if gpa + length > GPA_END:
        raise BadChainError(chain, "its table does not lie below 2^64")
    try:
        return tables(gpa, length)
    except UnreadableError as refused:
        raise BadChainError(chain, refused.cause) from refused


class Following:
    """A chain as far as it has been followed."""

    __slots__ = ("_readable", "_total", "_writable", "chain")

    def __init__(self, chain: Chain) -> None:
        """`chain` is what to give back, without buffers."""
        self.chain = chain
        self._readable: list[Buffer] = []
        self._writable: list[Buffer] = []
        self._total = 0

    def add(self, gpa: int, length: int, flags: int) -> None:
        """Add the buffer of a descriptor. Raises `BadChainError`."""
        self._total += length
        if flags & INDIRECT:
            raise BadChainError(self.chain, "a table of descriptors points to another one")
        if not length:
            raise BadChainError(self.chain, "a buffer has no bytes")
        if gpa + length > GPA_END or self._total > MOST_BYTES:
            raise BadChainError(self.chain, "it is longer than addresses or lengths are")
        if len(self._readable) + len(self._writable) == MOST_DESCRIPTORS:
            raise BadChainError(self.chain, f"it has more than {MOST_DESCRIPTORS} buffers")
        if flags & WRITE:
            self._writable.append((gpa, length))
        elif self._writable:
            raise BadChainError(self.chain, "a buffer to read follows one to write")
        else:
            self._readable.append((gpa, length))

    def whole(self, descriptors: int) -> Chain:
        """The chain with its buffers, which takes so many of the ring's descriptors."""
        return Chain(self.chain.head, tuple(self._readable), tuple(self._writable), descriptors)
