# SPDX-License-Identifier: MIT
"""The ring of a vCPU's dirtied pages (KVM_CAP_DIRTY_LOG_RING, api.rst 8.29)."""

from __future__ import annotations

from dataclasses import dataclass

from pyvmm.hosts.kvm.binding import check, ffi, lib, new
from pyvmm.hosts.owner import Owner
from pyvmm.rules.abi import PAGE_SIZE

_PAGE_OFFSET = 64
"""KVM_DIRTY_LOG_PAGE_OFFSET: where the ring begins in the vCPU's fd, in pages."""
_MAP_SHARED = 1
ENTRY_SIZE = int(ffi.sizeof("struct kvm_dirty_gfn"))
"""Bytes per entry."""


@dataclass(frozen=True, slots=True)
class DirtyPage:
    """A page that the guest wrote to: page `index` of memslot `slot` in `address_space`."""

    slot: int
    address_space: int
    index: int


class DirtyRing(Owner):
    """One vCPU's ring, mapped. Until `close` the mapping keeps the vCPU and its VM alive."""

    def __init__(self, vcpu_fd: int, size: int) -> None:
        """`size` in bytes, as `Vm.enable_dirty_ring` chose it. Raises `SystemCallError`."""
        attempt = f"map the dirty ring of vCPU fd {vcpu_fd}"
        offset = _PAGE_OFFSET * PAGE_SIZE
        self._hva = check(lib.pyvmm_map(vcpu_fd, size, _MAP_SHARED, offset), attempt)
        self._size = size
        self._entries = size // ENTRY_SIZE
        self._next = 0

    def harvest(self) -> list[DirtyPage]:
        """Take what is there, oldest first; `Vm.reset_dirty_rings` then rearms the pages taken."""
        if self._hva == 0:
            return []
        out = new("struct kvm_dirty_gfn[]", self._entries)
        ring = ffi.cast("struct kvm_dirty_gfn *", self._hva)
        count = lib.pyvmm_take_dirty(ring, self._entries, self._next, out, self._entries)
        self._next = (self._next + count) % self._entries
        return [
            DirtyPage(entry.slot & 0xFFFF, entry.slot >> 16, entry.offset)
            for entry in (out[i] for i in range(count))
        ]

    def close(self) -> None:
        """Unmap; a second call does nothing."""
        hva, self._hva = self._hva, 0
        if hva:
            check(lib.pyvmm_unmap(hva, self._size), "unmap a dirty ring")
