# SPDX-License-Identifier: MIT
"""Conversions between shared and private that conversions.c makes without leaving for Python."""

from __future__ import annotations

import errno
import mmap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pyvmm.errors import InternalError, SystemCallError, UsageError
from pyvmm.hosts.interface import Converted, Memslot, MemslotFlag, ServedSpan
from pyvmm.hosts.kvm.binding import CData, check, ffi, lib, new
from pyvmm.hosts.kvm.guest_memfd import GuestMemfd
from pyvmm.hosts.kvm.held_ranges import KvmHeldRanges
from pyvmm.hosts.owner import Owner

MOST_SPANS = int(lib.PYVMM_SERVED_SPANS)
"""Largest number of spans served at a time."""

JOURNAL_ENTRIES = int(lib.PYVMM_JOURNAL_ENTRIES)
"""Number of conversions (joined ones count once) that are made before one must wait for `drain`."""


class FastConversions(Owner):
    """The conversions of one VM: what its vCPUs' threads do by themselves, and their lock."""

    def __init__(self, vm_fd: int) -> None:
        """For the VM `vm_fd`, which must stay open until `close`. Raises `SystemCallError`."""
        conversions = lib.pyvmm_conversions_new(vm_fd)
        if conversions == ffi.NULL:
            raise SystemCallError("make a journal of conversions", ffi.errno, "out of memory")
        self.raw: CData = ffi.gc(conversions, lib.pyvmm_conversions_free)
        self.held = KvmHeldRanges(self.raw)
        """Ranges that somebody holds: the fast path leaves them to Python."""
        self._room: CData | None = None

    def serve(self, spans: Sequence[ServedSpan]) -> None:
        """Let vCPUs' threads convert what lies wholly in one of these by themselves.

        At most `MOST_SPANS`, which replace those served before. Their mappings and files must stay
        open while they are served; a span that is served no longer is out of use on return. Raises
        `UsageError` for spans that cannot be, `InternalError` once closed.
        """
        attempt = f"serve {len(spans)} spans of guest memory"
        if len(spans) > MOST_SPANS:
            raise UsageError(attempt, f"at most {MOST_SPANS} can be served at a time")
        _require_apart(spans, attempt)
        rows = new("struct pyvmm_served_span[]", max(1, len(spans)))
        for row, span in zip(rows, spans, strict=False):
            row.gpa, row.size, row.hva = span.gpa, span.size, span.hva
            row.guest_memfd = _fd_of(span, attempt)
            row.guest_memfd_offset = span.guest_memfd_offset
            row.touch_block = span.touch_block
            row.in_place = span.in_place
            row.slot = lib.PYVMM_PLUGGED
            if span.missing is not None:
                row.slot = span.missing.slot
                row.slot_flags = span.missing.flags | MemslotFlag.GUEST_MEMFD
        if lib.pyvmm_conversions_serve(self.raw, rows, len(spans)):
            raise InternalError(attempt, "the VM has been closed")

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep every other conversion of this VM out, from conversions.c as from other threads.

        Enter and leave it in one thread, and wait for no vCPU meanwhile: its thread may be waiting
        for this. Raises `InternalError` when the thread is inside already.
        """
        attempt = "keep other conversions of guest memory out"
        result = lib.pyvmm_conversions_lock(self.raw)
        if result == -errno.EDEADLK:
            raise InternalError(attempt, "this thread does so already")
        check(result, attempt)
        try:
            yield
        finally:
            result = lib.pyvmm_conversions_unlock(self.raw)
            if result:
                raise InternalError(
                    "let other conversions of guest memory in again", "wrong thread"
                )

    def give_way(self, seconds: float = 0.0) -> bool:
        """Inside of `exclusive`: let everybody in who waits for it, or all for `seconds`."""
        if not seconds:
            return bool(lib.pyvmm_conversions_give_way(self.raw))
        check(lib.pyvmm_conversions_unlock(self.raw), "let other conversions in")
        try:
            time.sleep(seconds)
        finally:
            lib.pyvmm_conversions_lock(self.raw)
        return True

    def await_end(self) -> None:
        """Inside of `exclusive`: let others in until work in steps on some range has ended."""
        lib.pyvmm_conversions_await_end(self.raw)

    @property
    def waiting(self) -> int:
        """Number of threads that wait for `exclusive`, or in `await_end`; as of a moment."""
        return int(lib.pyvmm_conversions_waiting(self.raw))

    def drain(self) -> list[Converted]:
        """Take the conversions made since the last call, in order; ones that touch are joined.

        Inside of `exclusive` what it tells is the present state. Also after `close`.
        """
        rows = self._room
        if rows is None:
            rows = self._room = new("struct pyvmm_converted[]", JOURNAL_ENTRIES)
        count = lib.pyvmm_conversions_drain(self.raw, rows)
        return [
            Converted(row.gpa, row.size, bool(row.is_private), bool(row.plugged))
            for row in (rows[i] for i in range(count))
        ]

    def close(self) -> None:
        """Serve nothing any more; a second call does nothing."""
        lib.pyvmm_conversions_close(self.raw)


def _require_apart(spans: Sequence[ServedSpan], attempt: str) -> None:
    """Raises `UsageError` unless each span is whole pages, and no two of them overlap."""
    end = 0
    for span in sorted(spans, key=lambda span: span.gpa):
        numbers = (span.gpa, span.size, span.hva, span.guest_memfd_offset)
        if span.size <= 0 or any(n < 0 or n % mmap.PAGESIZE for n in numbers):
            raise UsageError(attempt, f"the one at {span.gpa:#x} is not made of whole pages")
        if span.gpa < end:
            raise UsageError(attempt, f"the one at {span.gpa:#x} begins within the one before it")
        end = span.gpa + span.size
        file, block = span.guest_memfd, span.touch_block
        if file is None and (block < mmap.PAGESIZE or block & (block - 1)):
            raise UsageError(attempt, f"the one at {span.gpa:#x} has neither a file nor a block")
        if span.in_place and (file is None or span.missing is not None):
            raise UsageError(attempt, f"the one at {span.gpa:#x} has no file that is bound")
        if file is not None and span.guest_memfd_offset + span.size > file.size:
            raise UsageError(attempt, f"the one at {span.gpa:#x} reaches beyond its guest_memfd")
        if span.missing is not None and not _is_of(span, span.missing):
            raise UsageError(attempt, f"the one at {span.gpa:#x} is not what its memslot would be")
    if end >= 1 << 64:
        raise UsageError(attempt, "the last one reaches beyond the 64-bit addresses")


def _is_of(span: ServedSpan, memslot: Memslot) -> bool:
    if span.guest_memfd is None or span.guest_memfd is not memslot.guest_memfd:
        return False
    where = (span.gpa, span.size, span.hva, span.guest_memfd_offset)
    return where == (memslot.gpa, memslot.size, memslot.hva, memslot.guest_memfd_offset)


def _fd_of(span: ServedSpan, attempt: str) -> int:
    file = span.guest_memfd
    if file is None:
        return -1
    if not isinstance(file, GuestMemfd) or file.fd < 0:
        raise UsageError(attempt, f"the one at {span.gpa:#x} has no open guest_memfd of this host")
    return file.fd
