# SPDX-License-Identifier: MIT
"""Memory whose end is the end of a page, with a page behind it that nobody can touch.

A kernel that reads or writes more than is there answers EFAULT, and changes nothing of ours.
"""

from __future__ import annotations

import ctypes
import mmap
import os

from pyvmm.errors import SystemCallError
from pyvmm.hosts.owner import Owner
from pyvmm.rules.abi import PAGE_SIZE


class GuardedMemory(Owner):
    """`size` bytes of zeroes at `hva`. Raises `SystemCallError` where there is no memory."""

    def __init__(self, size: int) -> None:
        self.size = size
        room = -(-size // PAGE_SIZE) * PAGE_SIZE
        attempt = f"map {size} bytes for the kernel"
        try:
            self._mapped = mmap.mmap(-1, room + PAGE_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise SystemCallError(attempt, error.errno or 0, error.strerror or "") from error
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._mapped))
        self._offset = room - size
        self.hva = start + self._offset
        library = ctypes.CDLL(None, use_errno=True)
        guard, length = ctypes.c_void_p(start + room), ctypes.c_size_t(PAGE_SIZE)
        if library.mprotect(guard, length, 0):
            number = ctypes.get_errno()
            self.close()
            raise SystemCallError(attempt, number, os.strerror(number))

    def read(self) -> bytes:
        """All of it."""
        return self._mapped[self._offset : self._offset + self.size]

    def write(self, data: bytes) -> None:
        """Replace all of it: `size` bytes."""
        self._mapped[self._offset : self._offset + self.size] = data

    def close(self) -> None:
        """Unmap it; a second call does nothing."""
        self._mapped.close()
