# SPDX-License-Identifier: MIT
"""Guest memory in this process: mappings of files, and anonymous files that are mapped."""

from __future__ import annotations

import errno
import mmap
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pyvmm.errors import InternalError, SystemCallError, UsageError
from pyvmm.hosts import own_memory
from pyvmm.hosts.kvm.binding import check, ffi, lib, refused
from pyvmm.hosts.kvm.ownership import FdOwner
from pyvmm.hosts.owner import Owner

if TYPE_CHECKING:
    from pyvmm.hosts.call_record import Recorder

_MAP_NORESERVE = 0x4000
TRY_AGAIN = frozenset({-errno.EINTR, -errno.EAGAIN})
"""Results of a call that a signal, or a page in use, has kept from its work."""


class Mapping(Owner):
    """`size` bytes of a file, from offset 0, mapped shared and writable at `hva`.

    A view that outlives the mapping stays memory that can be read and written, but no longer the
    guest's: it reads as zeroes. The file itself is let go at `close` in any case.
    """

    def __init__(
        self,
        fd: int,
        size: int,
        what: str,
        *,
        file: FdOwner | None = None,
        in_core: bool = False,
        recorder: Recorder | None = None,
    ) -> None:
        """Map the whole of the file `fd`, which the mapping does not own, unless it is `file`'s.

        `file` is one that can be asked where it has data (lseek(2), SEEK_DATA): a guest_memfd
        cannot. A core of this process has the mapping only with `in_core`. Raises
        `SystemCallError`.
        """
        self._file = file
        flags = mmap.MAP_SHARED | _MAP_NORESERVE
        self._recorder = recorder
        attempt = f"map {size} bytes of {what}"
        hva = lib.pyvmm_map(fd, size, flags, 0)
        if recorder is not None:
            from pyvmm.hosts.kvm.recording import tell_map

            kind = "guest_memfd" if file is None else file.WHAT
            tell_map(recorder, f"{kind} fd {fd}", hva, size, flags)
        self._hva = check(hva, attempt)
        self._size = size
        if not in_core:
            result = lib.pyvmm_leave_out_of_core(self._hva, size)
            self._told("madvise", self._hva, size, result, "MADV_DONTDUMP")
            if result:
                self._unmap()
                raise refused(-result, f"{attempt} and keep them out of cores")
        self._open = True
        self._exported: list[weakref.ref[object]] = []

    @property
    def hva(self) -> int:
        """The first byte's host virtual address; 0 once closed."""
        return self._hva if self._open else 0

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._size

    @property
    def fd(self) -> int:
        """The descriptor of a file that is the mapping's own; -1 where that is somebody else's."""
        return -1 if self._file is None else self._file.fd

    def view(self) -> memoryview:
        """All of it, writable, as bytes. Raises `InternalError` once closed."""
        if not self._open:
            raise InternalError("look at a mapping of guest memory", "it has been closed")
        exporter = ffi.buffer(ffi.cast("char *", self._hva), self._size)
        # Every memoryview made from this one, slices included, keeps the exporter alive.
        self._exported = [known for known in self._exported if known() is not None]
        self._exported.append(weakref.ref(exporter))
        return memoryview(exporter)

    def discard(self, offset: int, size: int) -> None:
        """Free the pages of [offset, offset + size), in the file as well (MADV_REMOVE).

        Bytes from the mapping's start, page-aligned; they read as zeroes afterwards. Raises
        `UsageError` for any other range, `InternalError` once closed, `SystemCallError`.
        """
        attempt = f"discard {size} bytes at offset {offset:#x} of a mapping"
        self._require_range(offset, size, attempt)
        while size:
            result = lib.pyvmm_discard(self._hva + offset, size)
            self._told("madvise", self._hva + offset, size, result, "MADV_REMOVE")
            if result == 0:
                return
            if result not in TRY_AGAIN:
                raise refused(-result, attempt)

    def resident(self, offset: int, size: int) -> int:
        """Count the bytes of [offset, offset + size) that are in the host's memory (mincore(2)).

        Bytes from the mapping's start, page-aligned. A page that was allocated in the file and
        never touched is not among them. Raises as `discard`.
        """
        attempt = f"count what is resident of {size} bytes at offset {offset:#x} of a mapping"
        self._require_range(offset, size, attempt)
        result = lib.pyvmm_resident_pages(self._hva + offset, size)
        self._told("mincore", self._hva + offset, size, min(result, 0))
        return check(result, attempt) * mmap.PAGESIZE

    def data(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of [offset, offset + size) that may not be zero; see `interface`.

        An anonymous memfd says it by itself. A guest_memfd cannot, but its pages are never swapped
        out, so that those which are resident are all.
        """
        attempt = f"look for data in {size} bytes at offset {offset:#x} of a mapping"
        self._require_range(offset, size, attempt)
        end = offset + size
        if self._file is None:
            from pyvmm.hosts.kvm.resident_pages import resident_runs

            for start, stop in resident_runs(self._hva + offset, size, attempt):
                yield offset + start, offset + stop
            return
        while offset < end:
            if not self._open:
                raise InternalError(attempt, "it has been closed")
            try:
                start = os.lseek(self._file.fd, offset, os.SEEK_DATA)
                if start >= end:
                    return
                offset = min(end, os.lseek(self._file.fd, start, os.SEEK_HOLE))
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return  # No data from there on.
                raise refused(error.errno or 0, attempt) from error
            yield start, offset

    def peek(self, offset: int, size: int) -> bytes:
        """Copy bytes out by a system call; see `interface`. Raises `InternalError` once closed."""
        self._require_within(offset, size, f"read {size} bytes at offset {offset:#x} of a mapping")
        with self._telling(own_memory.READ, offset, size):
            return own_memory.read_memory(self._hva + offset, size)

    def poke(self, offset: int, data: bytes) -> None:
        """Write bytes by a system call; as `peek`."""
        size = len(data)
        self._require_within(offset, size, f"write {size} bytes at offset {offset:#x} of a mapping")
        with self._telling(own_memory.WRITE, offset, size):
            own_memory.write_memory(self._hva + offset, data)

    @contextmanager
    def _telling(self, name: str, offset: int, size: int) -> Iterator[None]:
        """Tell of a copy of `size` bytes, which may fail."""
        result = size
        try:
            yield
        except SystemCallError as error:
            result = -error.errno
            raise
        finally:
            self._told(name, self._hva + offset, size, result)

    def _unmap(self) -> int:
        result = int(lib.pyvmm_unmap(self._hva, self._size))
        self._told("munmap", self._hva, self._size, result)
        return result

    def _told(self, name: str, hva: int, size: int, result: int, request: str = "") -> None:
        if self._recorder is not None:
            from pyvmm.hosts.kvm.recording import tell_range

            where = ("address", hva, size)
            tell_range(self._recorder, name, "memory", where, result, request=request)

    def _require_within(self, offset: int, size: int, attempt: str) -> None:
        if not self._open:
            raise InternalError(attempt, "it has been closed")
        if offset < 0 or size < 0 or offset + size > self._size:
            raise UsageError(attempt, f"it has {self._size} bytes")

    def _require_range(self, offset: int, size: int, attempt: str) -> None:
        self._require_within(offset, size, attempt)
        if offset % mmap.PAGESIZE or size % mmap.PAGESIZE:
            raise UsageError(attempt, f"not in multiples of the page size, {mmap.PAGESIZE}")

    def close(self) -> None:
        """Unmap; a second call does nothing."""
        if not self._open:
            return
        self._open = False
        if self._file is not None:
            self._file.close()
        attempt = f"unmap {self._size} bytes at {self._hva:#x}"
        exporters = [exporter for known in self._exported if (exporter := known()) is not None]
        if not exporters:
            check(self._unmap(), attempt)
            return
        # An access through a view must not become a segmentation fault, nor end up in whatever is
        # mapped at this address next.
        result = lib.pyvmm_map_zeroes_over(self._hva, self._size)
        answer = result or self._hva
        self._told("mmap", self._hva, self._size, answer, "MAP_FIXED|MAP_ANONYMOUS")
        check(result, attempt)
        users = _LastUser(self._unmap, len(exporters))
        for exporter in exporters:
            weakref.finalize(exporter, users.gone).atexit = False


class _Memfd(FdOwner):
    WHAT = "memfd"


class _LastUser:
    """Unmaps a range when the last of its users has gone."""

    def __init__(self, unmap: Callable[[], int], users: int) -> None:
        self._unmap = unmap
        self._users = users

    def gone(self) -> None:
        self._users -= 1
        if self._users == 0:
            self._unmap()


def map_anonymous(size: int, *, in_core: bool = False, recorder: Recorder | None = None) -> Mapping:
    """`size` bytes of zeroes from a memfd that nothing but the mapping refers to and owns.

    See `Mapping` for `in_core`. Raises `UsageError` for a size that is no positive multiple of a
    page, `SystemCallError`.
    """
    attempt = f"map {size} bytes of guest memory"
    if size <= 0 or size % mmap.PAGESIZE:
        raise UsageError(attempt, f"not a positive multiple of the page size, {mmap.PAGESIZE}")
    try:
        file = _Memfd(os.memfd_create("pyvmm-guest", os.MFD_CLOEXEC), recorder)
    except OSError as error:
        raise refused(error.errno or 0, attempt) from error
    try:
        os.ftruncate(file.fd, size)
        if recorder is not None:
            from pyvmm.hosts.kvm.recording import tell_memfd

            tell_memfd(recorder, file.fd, size)
        return Mapping(
            file.fd, size, "an anonymous memfd", file=file, in_core=in_core, recorder=recorder
        )
    except OSError as error:
        file.close()
        raise refused(error.errno or 0, attempt) from error
    except BaseException:
        file.close()
        raise
