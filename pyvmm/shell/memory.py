# SPDX-License-Identifier: MIT
"""A VM's RAM at hand: read and written by GPA, converted, and looked at."""

from __future__ import annotations

import errno

from pyvmm.errors import SystemCallError, UsageError
from pyvmm.hosts.capabilities import MemoryAttribute
from pyvmm.hosts.interface import GuestMapping, GuestMemfd, Memslot, Vm

_SHARED = MemoryAttribute(0)


class MemoryAtHand:
    """RAM of one memslot. Addresses are GPAs, and all sizes are bytes.

    `mapping` is the host's view of it, `file` its guest_memfd, if it has one. Reading and writing
    are system calls, so that a private page is an error (`SystemCallError`, EFAULT) and no signal;
    where the private side is a file of its own, they reach the shared side.
    """

    def __init__(
        self, vm: Vm, mapping: GuestMapping, memslot: Memslot, *, in_place: bool = False
    ) -> None:
        """`in_place`: the file keeps which pages are private, and not the VM."""
        self._vm = vm
        self.mapping = mapping
        self.memslot = memslot
        self.in_place = in_place

    @property
    def file(self) -> GuestMemfd | None:
        """The guest_memfd behind it."""
        return self.memslot.guest_memfd

    def __len__(self) -> int:
        return self.memslot.size

    def read(self, gpa: int, size: int) -> bytes:
        """Copy `size` bytes from `gpa` on. Raises `UsageError`, `SystemCallError`."""
        return self.mapping.peek(self._offset(gpa, size), size)

    def write(self, gpa: int, data: bytes) -> None:
        """Copy `data` to `gpa`. Raises as `read`."""
        self.mapping.poke(self._offset(gpa, len(data)), data)

    def convert(self, gpa: int, size: int, *, private: bool) -> None:
        """Make [gpa, gpa + size) private or shared, whole pages, by the call that this host has.

        That is KVM_SET_MEMORY_ATTRIBUTES on the VM, or in place KVM_SET_MEMORY_ATTRIBUTES2 on the
        file. What the other side keeps is left to it. Raises `SystemCallError`, in place
        `PageHeldError`, too.
        """
        attributes = MemoryAttribute.PRIVATE if private else _SHARED
        file = self.memslot.guest_memfd
        if self.in_place and file is not None:
            file.set_attributes(self._offset(gpa, size), size, attributes)
        else:
            self._vm.set_memory_attributes(gpa, size, attributes)

    def __getitem__(self, where: slice | int) -> bytes:
        start, end = self._bounds(where)
        return self.read(start, end - start)

    def __setitem__(self, where: slice | int, data: bytes) -> None:
        start, end = self._bounds(where)
        if isinstance(where, slice) and where.stop is not None and len(data) != end - start:
            raise UsageError(
                f"write {len(data)} bytes to [{start:#x}, {end:#x})", "that is another size"
            )
        self.write(start, data)

    def _bounds(self, where: slice | int) -> tuple[int, int]:
        low = self.memslot.gpa
        if isinstance(where, int):
            return where, where + 1
        if where.step not in (None, 1):
            raise UsageError("slice memory", f"a step of {where.step}", "leave it out")
        start = low if where.start is None else where.start
        return start, low + len(self) if where.stop is None else where.stop

    def _offset(self, gpa: int, size: int) -> int:
        low, high = self.memslot.gpa, self.memslot.gpa + self.memslot.size
        if not self.mapping.hva:
            attempt = f"reach {size} bytes at GPA {gpa:#x}"
            raise SystemCallError(attempt, errno.EBADF, "EBADF (it has been closed)")
        if size < 0 or not low <= gpa <= gpa + size <= high:
            raise UsageError(f"reach {size} bytes at GPA {gpa:#x}", f"RAM is [{low:#x}, {high:#x})")
        return gpa - low

    def __repr__(self) -> str:
        low, high = self.memslot.gpa, self.memslot.gpa + self.memslot.size
        return f"<RAM [{low:#x}, {high:#x}), {'guest_memfd' if self.file else 'memfd'}>"
