# SPDX-License-Identifier: MIT
"""The model's guest memory in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pyvmm.hosts.model.host_memory import HostMemory
from pyvmm.hosts.owner import Owner


class ModelMapping(Owner):
    """A host mapping of guest memory; `gone` is told when it is unmapped."""

    def __init__(self, memory: HostMemory, gone: Callable[[], None] = lambda: None) -> None:
        self.memory = memory
        self._gone = gone

    @property
    def hva(self) -> int:
        """The first byte's host virtual address; 0 once closed."""
        return self.memory.address if self.memory.is_open else 0

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.memory.size

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.size} bytes>"

    def view(self) -> memoryview:
        """All of it, writable, as bytes. Raises `InternalError` once closed."""
        return self.memory.view()

    def discard(self, offset: int, size: int) -> None:
        """Give pages back. Raises `UsageError` for what are no whole pages."""
        self.memory.discard(offset, size)

    def resident(self, offset: int, size: int) -> int:
        """Bytes that take memory of the host."""
        return self.memory.resident(offset, size)

    def peek(self, offset: int, size: int) -> bytes:
        """Copy bytes out by a system call. Raises `SystemCallError`, `UsageError`."""
        return self.memory.peek(offset, size)

    def poke(self, offset: int, data: bytes) -> None:
        """Write bytes by a system call. Raises as `peek`."""
        self.memory.poke(offset, data)

    def data(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        """Yield the parts that may not be zero; see `interface`."""
        return self.memory.data(offset, size)

    def close(self) -> None:
        """Unmap; a second call does nothing."""
        if self.memory.is_open:
            self.memory.close()
            self._gone()
