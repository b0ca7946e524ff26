# SPDX-License-Identifier: MIT
"""Memory whose end is the end of a page, with a page behind it that nobody can touch.

A kernel that reads or writes more than is there answers EFAULT, and changes nothing of ours.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pyvmm.errors import SystemCallError
from pyvmm.hosts.owner import Owner
from pyvmm.rules.abi import PAGE_SIZE

if TYPE_CHECKING:  # Types can be declared where the compiled part is not there, too.
    from pyvmm.hosts.kvm.binding import CData


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

    def write(self, data: Any) -> None:
        """Replace all of it: `size` bytes."""
        self._mapped[self._offset : self._offset + self.size] = data

    def close(self) -> None:
        """Unmap it; a second call does nothing."""
        self._mapped.close()


@contextmanager
def guarded(ffi: Any, pointer: Any, content: Any) -> Iterator[CData]:
    """Copy `content`, an object that `pointer` is the type of a pointer to, to guarded memory.

    Its elements beyond the type are those of the array at its end. Raises as `GuardedMemory`.
    """
    size = memoryview(content).nbytes
    with GuardedMemory(size) as memory:
        memory.write(content)
        place = ffi.cast("char *", memory.hva)
        allocate = ffi.new_allocator(lambda _: place, None, should_clear_after_alloc=False)
        yield allocate(pointer, *_length(ffi, pointer.item, size))


def _length(ffi: Any, kind: Any, size: int) -> tuple[dict[str, int], ...]:
    """Initializer that says how many elements `size` bytes have; () where none are open."""
    fields = kind.fields or () if kind.kind == "struct" else ()
    for name, field in fields[-1:]:
        if field.type.kind == "array" and field.type.length is None:
            return ({name: (size - field.offset) // ffi.sizeof(field.type.item)},)
    return ()
