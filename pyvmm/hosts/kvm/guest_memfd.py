# SPDX-License-Identifier: MIT
"""guest_memfd: the file of a VM's own that is memory of its guest."""

from __future__ import annotations

import errno
import mmap
from typing import TYPE_CHECKING
from weakref import WeakSet

from pyvmm.errors import HostLacksError
from pyvmm.hosts.capabilities import GuestMemfdFlag, MemoryAttribute
from pyvmm.hosts.kvm.binding import check, lib, refused
from pyvmm.hosts.kvm.mapping import TRY_AGAIN, Mapping
from pyvmm.hosts.kvm.ownership import FdOwner
from pyvmm.hosts.owner import Owner
from pyvmm.rules.abi import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE

if TYPE_CHECKING:
    from pyvmm.hosts.call_record import Recorder
    from pyvmm.hosts.kvm.in_place import HeldPage
    from pyvmm.hosts.page_holders import PageHolder

_MODES = {
    FALLOC_FL_KEEP_SIZE: "FALLOC_FL_KEEP_SIZE",
    FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE: "FALLOC_FL_KEEP_SIZE|FALLOC_FL_PUNCH_HOLE",
}


class GuestMemfd(FdOwner):
    """A guest_memfd of `size` bytes, made by `Vm.create_guest_memfd` (api.rst 4.142).

    Close-on-exec, which the kernel leaves off. The open file keeps its VM alive in the kernel.
    """

    WHAT = "guest_memfd"

    def __init__(
        self, fd: int, size: int, flags: GuestMemfdFlag, recorder: Recorder | None = None
    ) -> None:
        super().__init__(fd, recorder)
        self._size = size
        self.flags = flags
        self._held: WeakSet[HeldPage] = WeakSet()

    @property
    def is_open(self) -> bool:
        """True until `close` is called."""
        return self.fd >= 0

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._size

    def map(self, *, in_core: bool = False) -> Mapping:
        """Map all of it shared; see `Mapping` for `in_core`.

        Without `GuestMemfdFlag.MMAP` the kernel refuses (ENODEV); without INIT_SHARED it maps, but
        touching the memory raises SIGBUS, which ends the process. Raises `SystemCallError`.
        """
        what = f"guest_memfd {self.fd}"
        return Mapping(self.fd, self._size, what, in_core=in_core, recorder=self.recorder)

    def allocate(self, offset: int, size: int) -> None:
        """Allocate the pages of [offset, offset + size), file offsets in bytes, page-aligned.

        A signal interrupts the kernel's work; it is then resumed, which finds the pages that are
        already there. Raises `SystemCallError`.
        """
        self._fallocate(FALLOC_FL_KEEP_SIZE, offset, size, "allocate")

    def punch_hole(self, offset: int, size: int) -> None:
        """Free the pages of [offset, offset + size), file offsets in bytes, page-aligned.

        Raises `SystemCallError`.
        """
        self._fallocate(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, offset, size, "free")

    def set_attributes(self, offset: int, size: int, attributes: MemoryAttribute) -> None:
        """Convert pages in place, as posted; see `interface.GuestMemfd`."""
        from pyvmm.hosts.kvm import in_place

        in_place.set_attributes(self, offset, size, attributes)

    def hold_page(self, offset: int) -> Owner:
        """Keep a reference on a page, in a pipe; see `interface.GuestMemfd`."""
        from pyvmm.hosts.kvm import in_place

        with self.map() as mapping:
            held = in_place.HeldPage(self, mapping, offset)
        self._held.add(held)
        return held

    def holders(self, offset: int) -> tuple[PageHolder, ...]:
        """Name who holds the page at a file offset in bytes; see `interface.GuestMemfd`."""
        from pyvmm.hosts.kvm.page_holders import holders_of_page

        return holders_of_page(self, offset, tuple(self._held))

    def resident(self, offset: int, size: int) -> int:
        """Count the bytes of [offset, offset + size) that are in the host's memory (cachestat(2)).

        File offsets in bytes, page-aligned. Raises `HostLacksError` where the kernel has no
        cachestat, `SystemCallError`.
        """
        what = f"{size} bytes at offset {offset:#x} of guest_memfd {self.fd}"
        attempt = f"count what is resident of {what}"
        result = lib.pyvmm_cached_pages(self.fd, offset, size)
        self._told("cachestat", offset, size, min(result, 0))
        if result == -errno.ENOSYS:
            raise HostLacksError(
                attempt,
                "the kernel has no cachestat",
                "use Linux 6.5 or later with CONFIG_CACHESTAT_SYSCALL",
            )
        return check(result, attempt) * mmap.PAGESIZE

    def _fallocate(self, mode: int, offset: int, size: int, verb: str) -> None:
        while True:
            result = lib.pyvmm_fallocate(self.fd, mode, offset, size)
            self._told("fallocate", offset, size, result, _MODES[mode])
            if result == 0:
                return
            if result not in TRY_AGAIN:
                attempt = f"{verb} {size} bytes at offset {offset:#x} of guest_memfd {self.fd}"
                raise refused(-result, attempt)

    def _told(self, name: str, offset: int, size: int, result: int, request: str = "") -> None:
        if self.recorder is not None:
            from pyvmm.hosts.kvm.recording import tell_range

            target, where = f"guest_memfd fd {self.fd}", ("offset", offset, size)
            tell_range(self.recorder, name, target, where, result, request=request)
