# SPDX-License-Identifier: MIT
"""Stores of block devices: where sectors are."""

from __future__ import annotations

from typing import Protocol

import trio


class BlockStore(Protocol):
    """Bytes that block devices read and write, in a trio task. Cancelled, it touches no more of
    what it was given. An ``OSError`` is an I/O error of the guest's.
    """

    @property
    def size(self) -> int:
        """Length in bytes."""
        ...

    async def read(self, offset: int, into: memoryview) -> None:
        """Fill `into` from `offset` on, all within the store."""
        ...

    async def write(self, offset: int, data: memoryview) -> None:
        """Take `data` at `offset`, all within the store."""
        ...

    async def flush(self) -> None:
        """Have everything that was written where it outlives a crash."""
        ...


class MemoryStore:
    """A store in memory: `data`, which is written in place."""

    def __init__(self, data: bytearray) -> None:
        self.data = data

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self.data)

    async def read(self, offset: int, into: memoryview) -> None:
        """Fill `into` from `offset` on."""
        await trio.lowlevel.checkpoint()
        into[:] = memoryview(self.data)[offset : offset + len(into)]

    async def write(self, offset: int, data: memoryview) -> None:
        """Take `data` at `offset`."""
        await trio.lowlevel.checkpoint()
        self.data[offset : offset + len(data)] = data

    async def flush(self) -> None:
        """Do nothing: it lives as long as it does."""
        await trio.lowlevel.checkpoint()
