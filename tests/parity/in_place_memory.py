# SPDX-License-Identifier: MIT
"""Data of a scripted guest that is one guest_memfd, whose pages are converted in place."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import pytest

from pyvmm.errors import SystemCallError
from pyvmm.hosts.capabilities import GuestMemfdFlag, MemoryAttribute, VmType
from pyvmm.hosts.interface import System

from .conftest import RUNAWAY_SECONDS
from .scripted_guest import MAP_GPA_RANGE, PAGE, Script, ScriptedGuest, not_longer_than
from .two_sided import DATA, ROOM, SPAN, Ask, TwoSided, Via

if TYPE_CHECKING:
    from pyvmm.hosts.kvm.system import System as KvmSystem

SHARED_FIRST = GuestMemfdFlag.MMAP | GuestMemfdFlag.INIT_SHARED
PRIVATE_FIRST = GuestMemfdFlag.MMAP


class InPlace(TwoSided):
    """The same guest, but both sides are the pages of its file, of which the host has a mapping.

    Converted by the test (`Via.IOCTLS`).
    """

    def left(self, byte: int, private: int = 0, how: Ask = Ask.ATTRIBUTES) -> int:
        """Contents stay, unless the guest asks for the page's memory to be freed first."""
        return 0 if Ask.FILE in how else private

    def look_behind(self, gpa: int, size: int, before: int) -> None:
        """The host reaches none of these pages, by its mapping neither: they have left it."""
        for page in range(gpa - DATA, gpa - DATA + size, PAGE):
            with pytest.raises(SystemCallError) as refused:
                self._shared.peek(page, 8)
            assert refused.value.errno == errno.EFAULT
            with pytest.raises(SystemCallError) as refused:
                self._shared.poke(page, b"written")
            assert refused.value.errno == errno.EFAULT

    def add_clearing(self, script: Script, gpa: int, size: int) -> None:
        """Make all of it shared. There is nothing behind what is shared that could be cleared."""
        self.add_conversion(script, gpa, size, Ask.ATTRIBUTES | Ask.SHARED)

    def _set_attributes(self, gpa: int, size: int, attributes: MemoryAttribute) -> None:
        self.file.set_attributes(gpa - DATA, size, attributes)

    @property
    def hva(self) -> int:
        """Where the host has the data mapped."""
        return self._shared.hva


@contextmanager
def in_place(
    system: System,
    code: bytes,
    vcpus: int = 1,
    memslots: int = 1,
    *,
    flags: GuestMemfdFlag = SHARED_FIRST,
) -> Iterator[InPlace]:
    """Data for `vcpus` vCPUs, cut into `memslots` slots of one size; see `two_sided`."""
    size = ROOM * vcpus
    # Scripted guests are of KVM; what is used of it here, every host has.
    kvm = cast("KvmSystem", system)
    with (
        kvm.create_vm(VmType.SW_PROTECTED) as vm,
        ScriptedGuest(kvm, vm, code) as guest,
        vm.create_guest_memfd(size, flags) as file,
        file.map() as mapping,
        not_longer_than(RUNAWAY_SECONDS, guest),
    ):
        vm.enable_hypercall_exits(1 << MAP_GPA_RANGE)
        memory = InPlace(guest, mapping, file, Via.IOCTLS, size // memslots)
        for index in range(vcpus):
            guest.tables.map(DATA + ROOM * index, DATA + ROOM * index, SPAN)
        with memory.in_slots():
            yield memory
