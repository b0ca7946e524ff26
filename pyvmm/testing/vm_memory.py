# SPDX-License-Identifier: MIT
"""Memory of a booted guest, as the host sees it."""

from __future__ import annotations

from functools import partial

from pyvmm.errors import UsageError
from pyvmm.testing.failures import is_told
from pyvmm.testing.life import Life

__tracebackhide__ = is_told

_AT_ONCE = 4 << 20
"""Bytes that a search reads at a time."""


class AsyncMemory:
    """Guest memory by GPA, in bytes; of private pages the host sees nothing, and says so."""

    def __init__(self, life: Life) -> None:
        self._life = life

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """(GPA, size) of each range of RAM, ascending."""
        return tuple(self._life.driver.memory_ranges())

    async def read(self, gpa: int, size: int, *, timeout: float | None = None) -> bytes:
        """Read `size` bytes from `gpa` on.

        Raises `UsageError`, which names the page, where one of them is private or no RAM;
        `ExpectError` at the time limits.
        """
        read = partial(self._life.driver.read_memory, gpa, size)
        return await self._life.do(f"read {size} bytes at gpa {gpa:#x}", read, timeout)

    async def write(self, gpa: int, data: bytes, *, timeout: float | None = None) -> None:
        """Write `data` from `gpa` on. Raises as `read`; nothing is written then."""
        _require_bytes(data, "write to guest memory")
        write = partial(self._life.driver.write_memory, gpa, data)
        await self._life.do(f"write {len(data)} bytes at gpa {gpa:#x}", write, timeout)

    async def search(
        self, data: bytes, *, skip_private: bool = False, timeout: float | None = None
    ) -> tuple[int, ...]:
        """Search all of RAM; the GPA of each place that has `data`, ascending, overlapping too.

        With `skip_private` only what the host sees is searched; without it, a private page raises
        `UsageError`. The guest runs on meanwhile: stop() it where it changes what is searched.
        """
        _require_bytes(data, "search guest memory")
        if not data:
            raise UsageError("search guest memory", "there is nothing to search for", "give bytes")
        search = partial(self._search, data, skip_private)
        return await self._life.do(f"search guest memory for {data[:40]!r}", search, timeout)

    async def _search(self, data: bytes, skip_private: bool) -> tuple[int, ...]:
        ranges = list(self._life.driver.memory_ranges())
        if skip_private:
            states = await self._life.driver.page_states()
            shared = [(gpa, size) for gpa, size, state in states if state == "shared"]
            ranges = [part for whole in ranges for part in _within(whole, shared)]
        found: list[int] = []
        for gpa, size in ranges:
            at, kept = gpa, b""
            while at < gpa + size:
                some = min(_AT_ONCE, gpa + size - at)
                block = kept + await self._life.driver.read_memory(at, some)
                place = -1
                while (place := block.find(data, place + 1)) >= 0:
                    found.append(at - len(kept) + place)
                at += some
                kept = (
                    block[len(block) - min(len(block), len(data) - 1) :] if len(data) > 1 else b""
                )
        return tuple(found)


def _require_bytes(data: object, attempt: str) -> None:
    # Types are not checked everywhere.
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise UsageError(attempt, f"{data!r} is not bytes", "encode it")


def _within(whole: tuple[int, int], parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """`parts` cut to `whole`, all as (GPA, size)."""
    start, size = whole
    cut = [(max(start, gpa), min(start + size, gpa + length)) for gpa, length in parts]
    return [(gpa, end - gpa) for gpa, end in cut if end > gpa]
