# SPDX-License-Identifier: MIT
"""Stores of block devices: where sectors are."""

from __future__ import annotations

from collections.abc import Sequence
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

    async def read(self, offset: int, into: Sequence[memoryview]) -> None:
        """Fill the views, one after the other, from `offset` on, all within the store."""
        ...

    async def write(self, offset: int, data: Sequence[memoryview]) -> None:
        """Take the views, one after the other, at `offset`, all within the store."""
        ...

    async def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """Make `length` bytes zero; with `unmap` nothing need be kept for them."""
        ...

    async def discard(self, offset: int, length: int) -> None:
        """Give back what holds these bytes, if that can be; they may be anything afterwards."""
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

    async def read(self, offset: int, into: Sequence[memoryview]) -> None:
        """Fill the views from `offset` on."""
        await trio.lowlevel.checkpoint()
        for view in into:
            view[:] = memoryview(self.data)[offset : offset + len(view)]
            offset += len(view)

    async def write(self, offset: int, data: Sequence[memoryview]) -> None:
        """Take the views at `offset`."""
        await trio.lowlevel.checkpoint()
        for view in data:
            self.data[offset : offset + len(view)] = view
            offset += len(view)

    async def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:  # noqa: ARG002
        """Make `length` bytes zero."""
        await trio.lowlevel.checkpoint()
        self.data[offset : offset + length] = bytes(length)

    async def discard(self, offset: int, length: int) -> None:
        """Make `length` bytes zero, which is as good as anything."""
        await self.write_zeroes(offset, length, unmap=True)

    async def flush(self) -> None:
        """Do nothing: it lives as long as it does."""
        await trio.lowlevel.checkpoint()
