# SPDX-License-Identifier: MIT
"""Memory of this process that stands for guest memory: files of the kernel's, mapped."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Callable, Iterator

from pyvmm.errors import InternalError, UsageError
from pyvmm.hosts import own_memory
from pyvmm.hosts.model.private_ranges import PrivateRanges
from pyvmm.hosts.model.refusals import failed
from pyvmm.hosts.owner import Owner

_MAP_NORESERVE = 0x4000
_MADV_REMOVE = 9
_MADV_DONTDUMP = 16
_LIBC = ctypes.CDLL(None, use_errno=True)


class HostMemory(Owner):
    """`size` bytes of zeroes at `address`, whole pages, taken from the host as they are touched.

    Of a new file, or of `file`'s once more: then at another address, and the pages stay that one's.
    After `close` the pages are given back at once; the addresses stay mapped while a view is out or
    somebody holds them (`hold`), so that a late access reads zeroes and nothing worse. A core of
    this process has it only with `in_core`. Raises `SystemCallError`, and `UsageError` for a size
    that is no positive multiple of a page.
    """

    def __init__(
        self, size: int, what: str, file: HostMemory | None = None, *, in_core: bool = False
    ) -> None:
        self._fd = -1
        self._file = file
        attempt = f"map {size} bytes of {what}"
        if size <= 0 or size % mmap.PAGESIZE:
            raise UsageError(attempt, f"not a positive multiple of the page size, {mmap.PAGESIZE}")
        try:
            if file is None:
                self._fd = os.memfd_create("pyvmm-model", os.MFD_CLOEXEC)
                os.ftruncate(self._fd, size)
            fd = self._fd if file is None else file._fd
            self._map = mmap.mmap(fd, size, mmap.MAP_SHARED | _MAP_NORESERVE)
            if not in_core:
                self._map.madvise(_MADV_DONTDUMP)
        except OSError as error:
            self._close_fd()
            raise failed(attempt, error) from error
        self.size = size
        anchor = ctypes.c_char.from_buffer(self._map)
        self.address = ctypes.addressof(anchor)
        # The anchor would keep the map from being closed; the address outlives it.
        del anchor
        self._what = what
        self._open = True
        self._holders = 0
        self._unreachable = PrivateRanges()
        self._on_close: list[Callable[[], None]] = []

    def hold(self, on_close: Callable[[], None]) -> None:
        """Keep the addresses mapped until `release`.

        `on_close` is called when they are closed, and when other pages can be reached (`protect`).
        """
        self._require_open("hold")
        self._holders += 1
        self._on_close.append(on_close)

    def release(self, on_close: Callable[[], None]) -> None:
        """Undo one `hold`."""
        self._holders -= 1
        self._on_close.remove(on_close)
        if not self._open and not self._holders:
            self._unmap()

    @property
    def is_open(self) -> bool:
        """True until `close` is called."""
        return self._open

    def view(self) -> memoryview:
        """All of it, writable, as bytes. Raises `InternalError` once closed."""
        self._require_open("look at")
        return memoryview(self._map)

    def discard(self, offset: int, size: int) -> None:
        """Give the pages of [offset, offset + size) back; they read as zeroes afterwards."""
        self._require(offset, size, "discard")
        if not size:
            return
        try:
            self._map.madvise(_MADV_REMOVE, offset, size)
        except OSError as error:
            raise failed(f"discard {size} bytes of {self._what}", error) from error

    def peek(self, offset: int, size: int) -> bytes:
        """Copy bytes out by a system call. Raises `SystemCallError`, `UsageError`."""
        self._require_within(offset, size, "read")
        return own_memory.read_memory(self.address + offset, size)

    def poke(self, offset: int, data: bytes) -> None:
        """Write bytes by a system call. Raises as `peek`."""
        self._require_within(offset, len(data), "write")
        own_memory.write_memory(self.address + offset, data)

    def allocate(self, offset: int, size: int) -> None:
        """Take the pages of [offset, offset + size) from the host now."""
        self._require(offset, size, "allocate")
        view = memoryview(self._map)
        for page in range(offset, offset + size, mmap.PAGESIZE):
            view[page] = view[page]  # A write takes the page, and leaves it as it is.
        view.release()

    def protect(self, offset: int, size: int, *, reachable: bool) -> None:
        """Let this process reach the pages of [offset, offset + size) at this address, or not."""
        self._require(offset, size, "protect")
        address = ctypes.c_void_p(self.address + offset)
        rights = mmap.PROT_READ | mmap.PROT_WRITE if reachable else 0
        if _LIBC.mprotect(address, ctypes.c_size_t(size), ctypes.c_int(rights)):
            number = ctypes.get_errno()
            raise failed(f"protect pages of {self._what}", OSError(number, os.strerror(number)))
        if self._unreachable.set(offset, offset + size, not reachable):
            for on_change in list(self._on_close):
                on_change()

    def reach(self, offset: int, size: int) -> Iterator[tuple[int, int, bool]]:
        """[offset, offset + size) as ascending runs: start, end, and if this process reaches it."""
        for start, end, unreachable in self._unreachable.runs(offset, offset + size):
            yield start, end, not unreachable

    def resident(self, offset: int, size: int) -> int:
        """Count the bytes of [offset, offset + size) that take memory of the host (mincore(2))."""
        self._require(offset, size, "count")
        pages = (ctypes.c_ubyte * (size // mmap.PAGESIZE))()
        address = ctypes.c_void_p(self.address + offset)
        if _LIBC.mincore(address, ctypes.c_size_t(size), pages):
            number = ctypes.get_errno()
            attempt = f"count the pages of {self._what}"
            raise failed(attempt, OSError(number, os.strerror(number)))
        return sum(page & 1 for page in pages) * mmap.PAGESIZE

    def data(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of [offset, offset + size) that may not be zero: (start, end), sorted."""
        self._require(offset, size, "look for data in")
        end = offset + size
        fd = self._fd if self._file is None else self._file._fd
        while offset < end:
            self._require_open("look for data in")
            try:
                start = os.lseek(fd, offset, os.SEEK_DATA)
                if start >= end:
                    return
                offset = min(end, os.lseek(fd, start, os.SEEK_HOLE))
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return  # No data from there on.
                raise failed(f"look for data in {self._what}", error) from error
            yield start, offset

    def _require_open(self, verb: str) -> None:
        if not self._open:
            raise InternalError(f"{verb} {self._what}", "it has been closed")

    def _require_within(self, offset: int, size: int, verb: str) -> None:
        self._require_open(verb)
        if not 0 <= size <= self.size - offset or offset < 0:
            attempt = f"{verb} {size} bytes at {offset:#x} of {self._what}"
            raise UsageError(attempt, f"not within its {self.size} bytes")

    def _require(self, offset: int, size: int, verb: str) -> None:
        self._require_within(offset, size, verb)
        if (offset | size) % mmap.PAGESIZE:
            attempt = f"{verb} {size} bytes at {offset:#x} of {self._what}"
            raise UsageError(attempt, "not whole pages")

    def close(self) -> None:
        """Give the pages back, and unmap as soon as no view is left; a second call does nothing."""
        if not self._open:
            return
        self._open = False
        if self._fd >= 0:
            self._map.madvise(_MADV_REMOVE, 0, self.size)
            self._close_fd()
        for on_close in list(self._on_close):
            on_close()
        if not self._holders:
            self._unmap()

    def _close_fd(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _unmap(self) -> None:
        try:
            self._map.close()
        except BufferError:
            # A view is out: the map goes with it, since nothing else refers to it then.
            self._map = mmap.mmap(-1, mmap.PAGESIZE)


class Mapped:
    """The memory that a host has mapped: found by its host virtual address."""

    def __init__(self) -> None:
        self._memories: list[HostMemory] = []

    def map(
        self, size: int, what: str, file: HostMemory | None = None, *, in_core: bool
    ) -> HostMemory:
        """As `HostMemory`; it can be found until it is closed."""
        memory = HostMemory(size, what, file, in_core=in_core)
        self._memories = [known for known in self._memories if known.is_open]
        self._memories.append(memory)
        return memory

    def find(self, hva: int, size: int) -> HostMemory | None:
        """The memory that [hva, hva + size), in bytes, lies in."""
        for memory in self._memories:
            if memory.is_open and memory.address <= hva <= memory.address + memory.size - size:
                return memory
        return None
