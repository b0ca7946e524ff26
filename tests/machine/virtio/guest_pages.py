# SPDX-License-Identifier: MIT
"""Guest memory without a VM, leased as `Leases` does, and watched."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from pyvmm.hosts.held_ranges import LeaseRefusal
from pyvmm.machine.leases import LeaseRefusedError

PAGE = 0x1000


class Held:
    """A lease of a part of `GuestPages`."""

    def __init__(self, pages: GuestPages, views: Sequence[memoryview]) -> None:
        self._pages = pages
        self.views = views

    def __enter__(self) -> Self:
        self._pages.leased += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for view in self.views:
            view.release()
        self._pages.leased -= 1


class GuestPages:
    """Memory of a guest, of which pages are `private`; `leased` counts the leases that are out."""

    def __init__(self, size: int = 8 * PAGE, holder: str = "disk") -> None:
        self.bytes = bytearray(size)
        self.private: set[int] = set()
        self.holder = holder
        self.leased = 0
        self.has_engines = False

    def lease(self, ranges: Sequence[tuple[int, int]], *, writable: bool, holder: str) -> Held:
        assert holder == self.holder
        for index, (gpa, size) in enumerate(ranges):
            assert size
            if gpa + size > len(self.bytes):
                raise LeaseRefusedError("lease", "no memory", LeaseRefusal.NO_MEMORY, index)
            pages = range(gpa // PAGE, (gpa + size - 1) // PAGE + 1)
            if not self.private.isdisjoint(page * PAGE for page in pages):
                raise LeaseRefusedError("lease", "private", LeaseRefusal.NOT_SHARED, index)
            if writable and any(
                gpa < other + length and other < gpa + size for other, length in ranges[:index]
            ):
                raise LeaseRefusedError("lease", "overlaps", LeaseRefusal.OVERLAPS, index)
        whole = memoryview(self.bytes)
        views = [whole[gpa : gpa + size] for gpa, size in ranges]
        return Held(self, views if writable else [one.toreadonly() for one in views])

    def interrupt(self) -> None:
        """Nobody waits for a lease to end."""

    def put(self, gpa: int, data: bytes) -> None:
        self.bytes[gpa : gpa + len(data)] = data
