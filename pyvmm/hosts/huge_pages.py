# SPDX-License-Identifier: MIT
"""Huge pages of 2 MiB in a mapping of host memory: asked for, made at once, counted (madvise(2)).

For a memfd /sys/kernel/mm/transparent_hugepage/shmem_enabled says if its next pages are huge where
`advise` asks for it; `collapse` does not ask that. Either way address and file offset must agree
modulo 2 MiB. Guest_memfds of released kernels have small pages only.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path

from pyvmm.errors import InternalError, SystemCallError, UsageError
from pyvmm.hosts.own_memory import read_memory, write_memory
from pyvmm.hosts.owner import Owner

HUGE = 2 << 20
"""Bytes."""
_MADV_HUGEPAGE, _MADV_COLLAPSE = 14, 25
_MAP_FAILED = ctypes.c_void_p(-1).value
_PROT_NONE, _MAP_FIXED = 0, 0x10
_FIXED = mmap.MAP_SHARED | _MAP_FIXED
_RESERVED = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_HEAD = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) ")
_COUNTS = (b"AnonHugePages:", b"ShmemPmdMapped:", b"FilePmdMapped:")


def advise(hva: int, size: int) -> None:
    """Ask for huge pages in [hva, hva + size), page-aligned, where they are touched from now on.

    Raises `SystemCallError`: EINVAL where the kernel has none.
    """
    _madvise(hva, size, _MADV_HUGEPAGE, "MADV_HUGEPAGE")


def collapse(hva: int, size: int) -> None:
    """Make huge pages of [hva, hva + size), both multiples of 2 MiB, now; contents stay.

    Raises `UsageError` for another range, `SystemCallError`: EINVAL where the file cannot have huge
    pages, or not there; ENOMEM where there is none left.
    """
    if hva % HUGE or size % HUGE or size <= 0:
        raise UsageError(
            f"make huge pages of {size} bytes at {hva:#x}", f"not in multiples of {HUGE} bytes"
        )
    _madvise(hva, size, _MADV_COLLAPSE, "MADV_COLLAPSE")


def huge_bytes(hva: int, size: int) -> int:
    """Count the bytes that mappings within [hva, hva + size) have in huge pages (proc(5), smaps).

    A mapping that reaches beyond the range is not counted. Raises `SystemCallError`.
    """
    try:
        with Path("/proc/self/smaps").open("rb") as smaps:
            return sum(_counted(smaps, hva, hva + size))
    except OSError as error:
        raise _failed("read /proc/self/smaps", error.errno or 0) from error


class AlignedMemory(Owner):
    """`size` bytes of zeroes from a memfd, mapped shared at an `hva` that is a multiple of 2 MiB.

    A memslot can lie on it (`Memslot.hva`), as on any memory of this process; huge pages can be had
    from its first byte on.
    """

    def __init__(self, size: int) -> None:
        """Raises `UsageError` for a size that is no multiple of 2 MiB, `SystemCallError`."""
        if size <= 0 or size % HUGE:
            raise UsageError(
                f"map {size} bytes for huge pages", f"not in multiples of {HUGE} bytes"
            )
        self.size = size
        self._library = ctypes.CDLL(None, use_errno=True)
        self._library.mmap.restype = ctypes.c_void_p
        # The kernel aligns mappings of some kinds only: what is before and behind is reserved too.
        self._reserved = self._map(None, size + HUGE, _PROT_NONE, _RESERVED, -1)
        self.hva = -(-self._reserved // HUGE) * HUGE
        try:
            fd = os.memfd_create("pyvmm-huge", os.MFD_CLOEXEC)
            try:
                os.ftruncate(fd, size)
                self._map(self.hva, size, mmap.PROT_READ | mmap.PROT_WRITE, _FIXED, fd)
            finally:
                os.close(fd)
        except OSError as error:
            self.close()
            raise _failed(f"map {size} bytes", error.errno or 0) from error
        except BaseException:
            self.close()
            raise

    def _map(self, at: int | None, size: int, access: int, flags: int, fd: int) -> int:
        place, length, offset = ctypes.c_void_p(at), ctypes.c_size_t(size), ctypes.c_long(0)
        found = self._library.mmap(place, length, access, flags, fd, offset)
        if found in {None, _MAP_FAILED}:
            raise _failed(f"map {size} bytes", ctypes.get_errno())
        return int(found)

    def read(self, offset: int, size: int) -> bytes:
        """Copy bytes out, from `offset` on.

        Raises `UsageError` outside of it, `InternalError` once closed, `SystemCallError`.
        """
        self._require(offset, size, f"read {size} bytes at offset {offset:#x}")
        return read_memory(self.hva + offset, size)

    def write(self, offset: int, data: bytes) -> None:
        """Copy bytes in, from `offset` on; as `read`."""
        self._require(offset, len(data), f"write {len(data)} bytes at offset {offset:#x}")
        write_memory(self.hva + offset, data)

    def _require(self, offset: int, size: int, attempt: str) -> None:
        """Keep away from what else is mapped there, or by now."""
        attempt = f"{attempt} of memory for huge pages"
        if not self._reserved:
            raise InternalError(attempt, "it has been closed")
        if not 0 <= offset <= offset + size <= self.size:
            raise UsageError(attempt, f"it has {self.size} bytes")

    def close(self) -> None:
        """Unmap it; a second call does nothing. No memslot may lie on it by then."""
        reserved, self._reserved = self._reserved, 0
        if reserved:
            self._library.munmap(ctypes.c_void_p(reserved), ctypes.c_size_t(self.size + HUGE))


def try_collapse() -> None:
    """Have a huge page in a memfd for a moment. Raises `SystemCallError`: EINVAL if it cannot."""
    with AlignedMemory(HUGE) as memory:
        memory.write(0, b"\1")
        collapse(memory.hva, HUGE)


def _counted(lines: Iterator[bytes], start: int, end: int) -> Iterator[int]:
    within = False
    for line in lines:
        head = _HEAD.match(line)
        if head is not None:
            within = start <= int(head[1], 16) and int(head[2], 16) <= end
        elif within and line.startswith(_COUNTS):
            yield int(line.split()[1]) << 10


def _madvise(hva: int, size: int, advice: int, name: str) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.madvise(ctypes.c_void_p(hva), ctypes.c_size_t(size), advice):
        raise _failed(f"{name} of {size} bytes at {hva:#x}", ctypes.get_errno())


def _failed(attempt: str, number: int) -> SystemCallError:
    name = errno.errorcode.get(number, f"errno {number}")
    return SystemCallError(attempt, number, f"{name} ({os.strerror(number)})")
